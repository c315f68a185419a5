"""Moving house: what a copy brings, what it leaves alone, and what a kill in the middle costs."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sitq
from databases import empty_database
from dict_backend import ListingBackend
from sitq import (
    AccessDeniedError,
    BackendError,
    BaseBackend,
    ConfigurationError,
    CopyReport,
    InvalidArgumentError,
    Result,
    SQLAlchemyBackend,
    SQLiteBackend,
    Task,
    TaskQueue,
    TaskStatus,
    Worker,
)
from sitq.ids import new_id
from sitq.records import Stage, stage_of
from sitq.testing.records import MOMENT, columns_of, completed, full_result, full_task, new_row, request

NOW = datetime.now(UTC)


@contextmanager
def backend_on(kind: str, folder: Path) -> Iterator[BaseBackend]:
    """An empty backend: a kind of database, or one over a driver of it."""
    if kind == "dict":
        yield ListingBackend()
        return
    with ExitStack() as stack:
        folder = folder / new_id()
        folder.mkdir()
        url = stack.enter_context(empty_database(kind.partition("+")[0], folder))
        if kind == "sqlite":
            yield stack.enter_context(SQLiteBackend(str(url.database)))
        else:
            yield stack.enter_context(SQLAlchemyBackend(url.set(drivername=kind) if "+" in kind else url))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SQLiteBackend]:
    with SQLiteBackend(tmp_path / "source.db") as backend:
        yield backend


@pytest.fixture
def target(tmp_path: Path) -> Iterator[SQLiteBackend]:
    with SQLiteBackend(tmp_path / "target.db") as backend:
        yield backend


def fill(backend: BaseBackend, waiting: int = 5) -> None:
    """Tasks in every phase but running, with values in every column, and a paused queue."""
    full = full_task()
    backend.store_task(full)
    backend.store_result(full.id, full_result(full.id))
    backend.store_task(Task(id=new_id(), function=b"", created_at=MOMENT, timeout=1e-9, progress=1 / 3))
    backend.enqueue([new_row(args=bytes([number])) for number in range(waiting)])
    backend.enqueue([new_row(due_at=MOMENT + timedelta(days=999), unique_key="only one", queue="later")])
    (claim,) = backend.claim(request(limit=1))
    backend.finish([completed(claim, b"\x00value")])
    backend.pause_queue("emails")


def content(backend: BaseBackend) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """All columns of all tasks and results."""
    found = []
    for task_id in sorted(backend.list_all_tasks()):
        task, result = backend.get_task(task_id), backend.get_result(task_id)
        assert task is not None
        found.append((columns_of(task), None if result is None else columns_of(result)))
    return found


def task(**columns: Any) -> Task:
    return Task(**{"id": new_id(), "function": b"f", "created_at": NOW} | columns)


def run_one(backend: BaseBackend, value: bytes = b"done") -> str:
    (claim,) = backend.claim(request(limit=1))
    assert backend.finish([completed(claim, value)]) == [True]
    return claim.id


KINDS = ("sqlite", "dict", "postgresql", "postgresql+asyncpg", "mariadb", "mariadb+asyncmy")


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_arrives_and_a_second_copy_changes_nothing(kind: str, source: BaseBackend, tmp_path: Path) -> None:
    fill(source)
    with backend_on(kind, tmp_path) as target:
        first = sitq.copy(source, target)
        assert content(target) == content(source)
        assert target.paused_queues() == ["emails"]
        second = sitq.copy(source, target, batch=2)
        assert content(target) == content(source)
    assert (first.copied, first.skipped, first.results, first.paused, first.complete) == (8, 0, 2, 1, True)
    assert (second.copied, second.skipped, second.results, second.paused, second.complete) == (0, 8, 0, 0, True)
    assert first.checked == second.checked == 8
    assert first.checksum == second.checksum


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_the_source(kind: str, target: BaseBackend, tmp_path: Path) -> None:
    with backend_on(kind, tmp_path) as source:
        fill(source)
        assert sitq.copy(source, target, batch=3).complete
        assert content(target) == content(source)


def test_a_round_trip_through_every_database_gives_the_same_bytes(source: SQLiteBackend, tmp_path: Path) -> None:
    fill(source, waiting=30)
    with ExitStack() as stack:
        last: BaseBackend = source
        sums = set()
        for kind in ("postgresql", "mariadb", "sqlite"):
            following = stack.enter_context(backend_on(kind, tmp_path))
            report = sitq.copy(last, following, batch=7)
            assert report.complete
            sums.add(report.checksum)
            last = following
        assert isinstance(last, SQLiteBackend)
        assert rows_of(last) == rows_of(source)
        assert len(sums) == 1


def rows_of(backend: SQLiteBackend) -> dict[str, list[Any]]:
    """What SQLite itself has stored, below every type of SQLAlchemy."""
    file = str(backend.engine.url.database)
    with sqlite3.connect(file) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in ("tasks", "results", "sitq_queues")
        }


# Killed.


def copy_and_tell(source: str, target: str, sender: Connection) -> None:
    sitq.copy(
        SQLiteBackend(source), sitq.SQLAlchemyBackend(target), batch=10, progress=lambda done, _: sender.send(done)
    )


def test_a_copy_that_is_killed_twenty_times_goes_on_to_the_end(source: SQLiteBackend, tmp_path: Path) -> None:
    source.enqueue([new_row(args=bytes(100)) for _ in range(1200)])
    source.finish([completed(claim) for claim in source.claim(request(limit=300))])
    context = get_context("forkserver")
    context.set_forkserver_preload(["sitq", "psycopg"])
    with empty_database("postgresql", tmp_path) as url, SQLAlchemyBackend(url) as target:
        where = (str(source.engine.url.database), url.render_as_string(hide_password=False))
        found = [0]
        for _ in range(20):
            kill_in_the_middle(context, where, beyond=found[-1])
            found.append(len(target.list_all_tasks()))
        assert all(before < after for before, after in pairwise(found)), "each kill found the copy at work"
        assert found[-1] < 1200
        last = sitq.copy(source, target)
        assert content(target) == content(source)
        assert last.complete
        assert last.skipped == found[-1], "what had been committed was not written again"


def kill_in_the_middle(context: Any, where: tuple[str, str], *, beyond: int) -> None:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=copy_and_tell, args=(*where, sender))
    process.start()
    sender.close()
    try:
        while receiver.recv() <= beyond:
            pass
        process.join(random.uniform(0, 0.002))
    finally:
        process.kill()
        process.join()
        receiver.close()
    assert process.exitcode == -9


# Running tasks.


def test_running_tasks_are_waited_for(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row(), new_row()])
    (claim,) = source.claim(request(limit=1))

    def end_it(done: int, total: int) -> None:
        if done == 1:
            source.finish([completed(claim, b"at last")])

    report = sitq.copy(source, target, progress=end_it)
    assert (report.copied, report.requeued, report.complete) == (2, 0, True)
    assert content(target) == content(source)


def test_a_running_task_whose_lease_has_lapsed_is_copied_as_queued(
    source: SQLiteBackend, target: SQLiteBackend
) -> None:
    source.enqueue([new_row()])
    (claim,) = source.claim(request(lease=0.0))
    before = content(source)
    report = sitq.copy(source, target)
    assert (report.requeued, report.complete) == (1, True)
    assert content(source) == before, "the source is only read"
    assert run_one(target) == claim.id


def test_running_tasks_can_be_copied_as_queued(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row()])
    (claim,) = source.claim(request())
    first = sitq.copy(source, target, running="requeue")
    second = sitq.copy(source, target, running="requeue")
    assert (first.requeued, second.requeued, second.skipped) == (1, 0, 1)
    (copied,) = target.list_tasks()
    assert (copied.status, copied.worker_id, copied.lease_until) == ("queued", None, None)

    source.finish([completed(claim, b"the old worker made it")])
    assert sitq.copy(source, target).copied == 1
    assert content(target) == content(source)


def test_running_tasks_can_be_refused(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row(), new_row()])
    (claim,) = source.claim(request(limit=1))
    with pytest.raises(BackendError, match=f"{claim.id} of the source is running"):
        sitq.copy(source, target, running="error")
    assert target.list_all_tasks() == []


def test_a_custom_backend_s_running_tasks_are_known(target: SQLiteBackend) -> None:
    source = ListingBackend()
    source.store_task(task(status="running"))
    with pytest.raises(BackendError, match="is running"):
        sitq.copy(source, target, running="error")
    assert sitq.copy(source, target, running="requeue").requeued == 1


# A target that has a life of its own.


def test_what_came_and_changed_since_comes_with_the_next_copy(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row() for _ in range(5)])
    sitq.copy(source, target)
    run_one(source)
    source.enqueue([new_row()])
    report = sitq.copy(source, target)
    assert (report.copied, report.skipped, report.results, report.complete) == (2, 4, 1, True)
    assert content(target) == content(source)


def test_a_task_that_got_further_in_the_target_is_kept_and_reported(
    source: SQLiteBackend, target: SQLiteBackend
) -> None:
    source.enqueue([new_row(), new_row()])
    sitq.copy(source, target)
    done = run_one(target, b"in the new house")
    report = sitq.copy(source, target)
    assert (report.copied, report.skipped, report.kept, report.kept_ids) == (0, 1, 1, (done,))
    assert report.verified
    assert not report.complete
    result = target.get_result(done)
    assert result is not None
    assert result.value == b"in the new house"


def test_the_stages_of_a_life_are_in_order() -> None:
    life = [
        ("queued", 0, 0, 0),
        ("cancelled", 0, 0, 0),
        ("running", 1, 0, 0),
        ("failed", 1, 0, 0),
        ("queued", 1, 0, 1),
        ("queued", 1, 1, 1),
        ("running", 2, 1, 1),
        ("completed", 2, 1, 1),
        ("running", 3, 0, 0),
    ]
    stages = [stage_of(*columns) for columns in life]
    assert stages == sorted(set(stages))
    assert stage_of(None, None, None, None) == Stage(0, 0, 0)
    assert stage_of("made up by hand", 0, 0, 0) == stage_of("completed", 0, 0, 0)


def test_a_unique_key_goes_over_to_the_task_that_has_it_now(source: SQLiteBackend, target: SQLiteBackend) -> None:
    later = new_id()
    first, second = task(unique_key="k"), task(unique_key=None, status="failed", claim_count=1)
    for each in (first, second):
        source.store_task(each)
    sitq.copy(source, target)
    source.store_task(replace(first, status="completed", claim_count=1, unique_key=None))
    source.store_task(replace(second, status="queued", unique_key="k", retry_count=1))
    assert sitq.copy(source, target, batch=1).complete
    assert content(target) == content(source)
    # And to an earlier one, whose page comes before that of the present holder.
    source.store_task(replace(second, status="completed", claim_count=2, unique_key=None))
    source.store_task(replace(first, status="queued", claim_count=1, retry_count=1, unique_key="k"))
    source.store_task(task(id=later))
    assert sitq.copy(source, target, batch=1).complete
    assert content(target) == content(source)
    # And on within one batch, whose earlier row gets the key of the later.
    third = task(unique_key="k")
    source.store_task(replace(first, status="completed", claim_count=2, unique_key=None))
    source.store_task(third)
    sitq.copy(source, target)
    source.store_task(replace(third, status="completed", claim_count=1, unique_key=None))
    source.store_task(replace(first, status="queued", claim_count=2, retry_count=2, unique_key="k"))
    assert sitq.copy(source, target).complete
    assert content(target) == content(source)


def test_a_task_whose_unique_key_the_target_s_own_task_bears_is_left_out_and_reported(
    source: SQLiteBackend, target: SQLiteBackend
) -> None:
    own, other, free = task(unique_key="k"), task(unique_key="k"), task()
    target.store_task(own)
    source.store_task(other)
    source.store_task(free)
    report = sitq.copy(source, target)
    assert (report.copied, report.conflicts, report.conflict_ids, report.complete) == (1, 1, (other.id,), False)
    assert target.list_all_tasks() == [own.id, free.id]


def test_a_queue_that_was_resumed_in_the_target_is_not_paused_again(
    source: SQLiteBackend, target: SQLiteBackend
) -> None:
    source.pause_queue("default")
    assert sitq.copy(source, target).paused == 1
    target.resume_queue("default")
    assert sitq.copy(source, target).paused == 0
    assert target.paused_queues() == []


def test_a_task_whose_time_has_come_in_the_target_is_the_same_task(
    source: SQLiteBackend, target: SQLiteBackend
) -> None:
    source.store_task(task(due_at=NOW, scheduled=True))
    sitq.copy(source, target)
    with target.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tasks SET scheduled = FALSE")  # as a claim of others does
    report = sitq.copy(source, target)
    assert (report.copied, report.skipped, report.complete) == (0, 1, True)


def test_who_waits_at_the_target_is_told(source: SQLiteBackend, target: SQLiteBackend) -> None:
    told = threading.Event()
    target.wakeups.notify_all = told.set  # type: ignore[method-assign]
    sitq.copy(source, target)
    assert told.is_set()


def double(number: int) -> int:
    return number * 2


def test_copied_tasks_run_in_their_new_house(source: SQLiteBackend, target: SQLiteBackend) -> None:
    async def move() -> None:
        task_id = await TaskQueue(backend=source).enqueue(double, 21)
        async with Worker(target):
            await sitq.acopy(source, target)
            assert await TaskQueue(backend=target).result(task_id, timeout=20) == 42

    asyncio.run(move())


# Verifying.


def test_a_row_that_came_out_otherwise_is_found(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row(), new_row(name="spoil me")])
    with target.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER spoil AFTER INSERT ON tasks WHEN NEW.name = 'spoil me' "
            "BEGIN UPDATE tasks SET function = X'00' WHERE id = NEW.id; END"
        )
    report = sitq.copy(source, target)
    assert (report.verified, report.checked, report.complete) == (False, 2, False)
    assert report.differing_ids == (source.list_tasks(name="spoil me")[0].id,)


def test_the_checksum_tells_one_byte(source: SQLiteBackend, tmp_path: Path) -> None:
    fill(source)

    def checksum(name: str) -> str | None:
        with SQLiteBackend(tmp_path / name) as target:
            return sitq.copy(source, target).checksum

    before = checksum("first.db")
    assert before == checksum("second.db")
    changed = source.list_tasks(limit=1)[0]
    source.store_task(replace(changed, function=changed.function + b"\x00"))
    assert before != checksum("third.db")


def test_verifying_can_be_left_out(source: SQLiteBackend, target: SQLiteBackend) -> None:
    fill(source)
    report = sitq.copy(source, target, verify=False)
    assert (report.verified, report.checked, report.checksum, report.verify_seconds) == (False, 0, None, 0)
    assert content(target) == content(source)


# Progress, memory, threads.


def test_progress_is_told_after_each_batch(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row() for _ in range(5)])
    told: list[tuple[int, int]] = []
    sitq.copy(source, target, batch=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5), (5, 5)]


def test_what_progress_raises_ends_the_copy_and_the_next_one_goes_on(
    source: SQLiteBackend, target: SQLiteBackend
) -> None:
    source.enqueue([new_row() for _ in range(6)])

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sitq.copy(source, target, batch=2, progress=interrupt)
    report = sitq.copy(source, target)
    assert (report.copied, report.skipped, report.complete) == (2, 4, True)


def test_a_batch_of_large_tasks_is_a_small_one(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row(args=bytes(3 * 2**20)) for _ in range(8)])
    told: list[int] = []
    assert sitq.copy(source, target, progress=lambda done, total: told.append(done)).complete
    assert told == [3, 6, 8, 8]


def test_the_event_loop_goes_on_while_a_copy_runs(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row() for _ in range(4)])
    seen = threading.Event()

    async def move() -> CopyReport:
        copying = asyncio.create_task(sitq.acopy(source, target, batch=1, progress=lambda *_: seen.wait(10)))
        await asyncio.sleep(0)
        seen.set()
        return await copying

    assert asyncio.run(move()).complete


def test_a_cancelled_copy_ends_with_its_batch(source: SQLiteBackend, target: SQLiteBackend) -> None:
    source.enqueue([new_row() for _ in range(4)])

    async def move() -> None:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()
        gate = threading.Event()

        def hold(done: int, total: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            gate.wait(10)

        copying = asyncio.create_task(sitq.acopy(source, target, batch=1, progress=hold))
        await begun.wait()
        copying.cancel()
        loop.call_soon(gate.set)
        with pytest.raises(asyncio.CancelledError):
            await copying

    asyncio.run(move())
    assert len(target.list_all_tasks()) == 1
    assert sitq.copy(source, target).complete


# What may not be.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"running": "maybe"}, "running='maybe'"),
        ({"batch": 0}, "batch=0"),
        ({"batch": True}, "batch=True"),
        ({"verify": 1}, "verify=1"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], message: str, source: SQLiteBackend, target: SQLiteBackend
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sitq.copy(source, target, **arguments)


def test_a_backend_is_not_copied_onto_itself(source: SQLiteBackend) -> None:
    with pytest.raises(InvalidArgumentError, match="same backend"):
        sitq.copy(source, source)
    with pytest.raises(ConfigurationError, match="target="):
        sitq.copy(source, "tasks.db")  # type: ignore[arg-type]


def test_a_reader_may_be_copied_from_and_not_to(source: SQLiteBackend, tmp_path: Path) -> None:
    fill(source)
    file = tmp_path / "listed.db"
    with SQLiteBackend(file) as backend:
        sitq.copy(source, backend)
    lists: dict[str, Any] = {"read_only_users": ["ann"], "write_users": ["ben"], "user": "ann"}
    with SQLiteBackend(file, **lists) as reader, SQLiteBackend(tmp_path / "another.db") as other:
        assert sitq.copy(reader, other).complete
        with pytest.raises(AccessDeniedError, match="ann"):
            sitq.copy(other, reader)


def test_a_read_only_source_will_do(source: SQLiteBackend, target: SQLiteBackend, tmp_path: Path) -> None:
    fill(source)
    source.close()
    with SQLiteBackend(tmp_path / "source.db", readonly=True) as reader:
        assert sitq.copy(reader, target).complete


# Whatever there is on both sides.

IDS = [f"task-{number}" for number in range(6)]
statuses = st.sampled_from([status.value for status in TaskStatus if status is not TaskStatus.RUNNING])
small = st.integers(0, 2)


@st.composite
def houses(draw: st.DrawFn) -> dict[str, tuple[Task, Result | None]]:
    """What a backend holds: some of the tasks, each somewhere in its life."""
    house = {}
    for task_id in draw(st.lists(st.sampled_from(IDS), unique=True)):
        columns = {"status": draw(statuses), "claim_count": draw(small), "retry_count": draw(small)}
        each = task(id=task_id, args=draw(st.binary(max_size=2)), unique_key=f"key of {task_id}", **columns)
        result = Result(task_id=task_id, value=draw(st.binary(max_size=2)), completed_at=NOW)
        house[task_id] = (each, result if draw(st.booleans()) else None)
    return house


def furnish(backend: BaseBackend, house: dict[str, tuple[Task, Result | None]]) -> None:
    for each, result in house.values():
        backend.store_task(replace(each))
        if result is not None:
            backend.store_result(each.id, replace(result))


def merged(
    source: dict[str, tuple[Task, Result | None]], target: dict[str, tuple[Task, Result | None]]
) -> dict[str, tuple[Task, Result | None]]:
    def stage(each: Task) -> Stage:
        return stage_of(each.status, each.claim_count, each.retry_count, each.crash_count)

    both = source.keys() & target.keys()
    further = {task_id for task_id in both if stage(target[task_id][0]) > stage(source[task_id][0])}
    return target | {task_id: pair for task_id, pair in source.items() if task_id not in further}


def empty(backend: BaseBackend) -> BaseBackend:
    if isinstance(backend, ListingBackend):
        return ListingBackend()
    assert isinstance(backend, SQLAlchemyBackend)
    with backend.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM results")
        connection.exec_driver_sql("DELETE FROM tasks")
    return backend


class StopHereError(Exception):
    pass


def stopping_after(batches: int) -> Callable[[int, int], None]:
    left = [batches]

    def progress(done: int, total: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise StopHereError

    return progress


@pytest.mark.parametrize("kinds", [("sqlite", "sqlite"), ("sqlite", "postgresql"), ("postgresql", "mariadb")])
def test_interrupted_anywhere_and_taken_up_again_a_copy_merges_two_houses(
    kinds: tuple[str, str], tmp_path: Path
) -> None:
    with backend_on(kinds[0], tmp_path) as source, backend_on(kinds[1], tmp_path) as target:

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(houses(), houses(), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=2))
        def check(old: Any, new: Any, batch: int, stops: list[int]) -> None:
            furnish(empty(source), old)
            furnish(empty(target), new)
            for batches in stops:
                with suppress(StopHereError):
                    sitq.copy(source, target, batch=batch, progress=stopping_after(batches))
            assert sitq.copy(source, target, batch=batch).verified
            once = content(target)
            expected = ListingBackend()
            furnish(expected, merged(old, new))
            assert once == content(expected)
            again = sitq.copy(source, target)
            assert (again.copied, content(target)) == (0, once)

        check()
