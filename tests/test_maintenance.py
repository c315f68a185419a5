"""Vacuum, optimize, check and purge; retention; reading without writing; carrying data over."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sitq
from by_hand import cancel_one, claim_one, run_all
from damage import filled, leaves, overwrite_page
from dict_backend import DictBackend
from sitq import schema
from sitq.claims import ClaimRequest, Outcome
from sitq.models import TaskStatus
from sitq.store import claiming, purging


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture(params=["file", "memory"])
def backend(request: pytest.FixtureRequest, path: Path) -> Iterator[sitq.SQLiteBackend]:
    with sitq.SQLiteBackend(path if request.param == "file" else ":memory:") as made:
        yield made


# Vacuum, optimize, check.


def test_vacuum_gives_space_back_while_others_hold_connections(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        queue.enqueue_many(len, [(b"x" * 100_000,)] * 50)
        run_all(backend)
        kept = queue.enqueue(len, "kept")
        assert backend.purge(older_than=0) == 50
        before = backend.health_check().database_size_mb
        with backend.engine.connect():
            backend.vacuum()
        assert backend.health_check().database_size_mb < before / 5
        assert backend.list_all_tasks() == [kept]


def test_the_claim_still_seeks_its_index_after_optimize(backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    queue.enqueue_many(len, [("x",)] * 300)
    run_all(backend)
    queue.options(queue="other").enqueue_many(len, [("x",)] * 300)
    queue.enqueue(len, "x")
    backend.optimize()
    with backend.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_stat1").scalar() > 0  # type: ignore[operator]
        statement = str(claiming.due_tasks(backend._database.models, False).compile(connection.engine))
        values = (1,) * statement.count("?")
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    assert "ix_tasks_claim (status=? AND scheduled=? AND queue=?)" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


def test_check_finds_nothing_in_a_sound_database(backend: sitq.SQLiteBackend) -> None:
    sitq.SyncTaskQueue(backend).enqueue(len, "x")
    report = asyncio.run(backend.acheck())
    assert (report.ok, report.problems) == (True, ())


def test_check_tells_of_damaged_pages(path: Path) -> None:
    filled(path, 300)
    overwrite_page(path, leaves(path)[2])
    with sitq.SQLiteBackend(path) as backend:
        report = backend.check()
    assert not report.ok
    assert any("ree " in problem or "age " in problem for problem in report.problems), report.problems


def test_check_tells_of_results_without_a_task(path: Path) -> None:
    filled(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO results (task_id) VALUES ('nobody')")
        connection.commit()
    with sitq.SQLiteBackend(path) as backend:
        assert backend.check().problems == ("row 1 of results refers to a row of tasks that is missing",)


def test_check_reports_a_file_that_cannot_be_opened(path: Path) -> None:
    path.write_text("no database\n" * 500)
    report = sitq.SQLiteBackend(path).check()
    assert not report.ok
    assert "not an SQLite database" in report.problems[0]


# Purge.


def ended(backend: sitq.SQLiteBackend, ages: dict[str, timedelta], status: str = "completed") -> None:
    """Store ended tasks with results; the name tells how long ago each ended."""
    for name, age in ages.items():
        at = datetime.now(UTC) - age
        backend.store_task(sitq.Task(id=name, function=b"f", status=status, created_at=at, completed_at=at))
        backend.store_result(name, sitq.Result(task_id=name, completed_at=at))


DAYS = {f"{days} days": timedelta(days=days, minutes=1) for days in range(4)}


@pytest.mark.parametrize(
    ("older_than", "left"),
    [
        (timedelta(days=2), ["0 days", "1 days"]),
        (2 * 86_400, ["0 days", "1 days"]),
        (timedelta(0), []),
        (timedelta(days=9), ["0 days", "1 days", "2 days", "3 days"]),
        (datetime(1999, 1, 1, tzinfo=UTC), ["0 days", "1 days", "2 days", "3 days"]),
    ],
)
@pytest.mark.parametrize("door", ["sync", "async"])
def test_purge_takes_what_ended_long_enough_ago(
    backend: sitq.SQLiteBackend, older_than: Any, left: list[str], door: str
) -> None:
    ended(backend, DAYS)
    purge: Callable[[], int] = lambda: backend.purge(older_than=older_than)  # noqa: E731
    if door == "async":
        purge = lambda: asyncio.run(backend.apurge(older_than=older_than))  # noqa: E731
    assert purge() == 4 - len(left)
    assert backend.list_all_tasks() == left
    assert [name for name in DAYS if backend.has_result(name)] == left
    assert purge() == 0
    assert backend.check().ok


def test_purge_takes_a_moment(backend: sitq.SQLiteBackend) -> None:
    ended(backend, DAYS)
    assert backend.purge(older_than=datetime.now(UTC) - timedelta(days=1, hours=1)) == 2
    assert backend.list_all_tasks() == ["0 days", "1 days"]


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("completed", {"failed", "cancelled"}),
        (["failed", "cancelled"], {"completed"}),
        (TaskStatus.CANCELLED, {"completed", "failed"}),
        (None, set()),
    ],
)
def test_purge_may_be_of_some_statuses(backend: sitq.SQLiteBackend, status: Any, left: set[str]) -> None:
    for each in ("completed", "failed", "cancelled"):
        ended(backend, {each: timedelta(days=1)}, status=each)
    assert backend.purge(older_than=60, status=status) == 3 - len(left)
    assert set(backend.list_all_tasks()) == left


def test_purge_never_takes_unfinished_tasks(backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    ids = queue.enqueue_many(len, [("x",)] * 3)
    claim_one(backend)
    ids.append(queue.options(delay=60).enqueue(len, "later"))
    assert backend.purge(older_than=0) == 0
    assert sorted(backend.list_all_tasks()) == sorted(ids)


@pytest.mark.parametrize(
    "options",
    [
        {"older_than": -1},
        {"older_than": timedelta(days=-1)},
        {"older_than": "1 day"},
        {"older_than": None},
        {"older_than": datetime(2020, 1, 1)},  # noqa: DTZ001  # the point of the test
        {"older_than": 1, "status": "queued"},
        {"older_than": 1, "status": "running"},
        {"older_than": 1, "status": ["completed", "running"]},
        {"older_than": 1, "status": []},
        {"older_than": 1, "status": "done"},
    ],
)
def test_wrong_limits_are_refused(backend: sitq.SQLiteBackend, options: dict[str, Any]) -> None:
    ended(backend, DAYS)
    with pytest.raises(sitq.ConfigurationError, match=list(options)[-1]):
        backend.purge(**options)
    assert len(backend.list_all_tasks()) == 4


def test_purge_asks_its_index(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend, backend.engine.connect() as connection:
        seen: list[str] = []
        backend.initialize()
        ended(backend, DAYS)

        def note(session: Any, models: Any) -> None:
            for statement in (
                "SELECT queue, status FROM tasks WHERE completed_at < ? AND status IN ('completed') GROUP BY 1, 2",
                "SELECT id FROM tasks WHERE queue = ? AND status = ? AND completed_at < ? ORDER BY completed_at",
            ):
                values = ("x",) * statement.count("?")
                seen.append(str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()))

        backend._database.read(note)
    assert "COVERING INDEX ix_tasks_history" in seen[0]
    assert "ix_tasks_history (queue=? AND status=? AND completed_at<?)" in seen[1]


def test_writers_get_in_between_the_batches_of_a_purge(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend, sitq.SQLiteBackend(path) as other:
        queue = sitq.SyncTaskQueue(backend)
        queue.enqueue_many(len, [("x",)] * 4_000)
        claims = backend.claim(ClaimRequest("w", ("default",), 4_000, 30.0))
        backend.finish([Outcome(token=each.token, status=TaskStatus.COMPLETED, at=backend.now()) for each in claims])
        purging_thread = threading.Thread(target=backend.purge, kwargs={"older_than": 0})
        purging_thread.start()
        seen = set()
        while purging_thread.is_alive():
            sitq.SyncTaskQueue(other).enqueue(len, "meanwhile")
            seen.add(other.get_stats().completed_tasks)
        purging_thread.join()
        assert other.get_stats().completed_tasks == 0
        assert len(seen - {0, 4_000}) >= 2, "no write came between the batches"


# Statistics.


def test_rows_written_by_hand_are_counted_though_no_index_has_them(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ended(backend, DAYS)
        sitq.SyncTaskQueue(backend).options(queue="mail").enqueue(len, "x")
        assert backend.get_stats().total_tasks == 5
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("INSERT INTO tasks (id, function, status) VALUES ('a', x'00', 'completed')")
            connection.execute("INSERT INTO tasks (id, function, status) VALUES ('b', x'00', NULL)")
            connection.commit()
        stats = backend.get_stats()
    assert (stats.total_tasks, stats.completed_tasks, stats.pending_tasks) == (7, 5, 2)
    assert stats.queues["mail"].total_tasks == 1


# Retention.


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_worker_with_retention_purges_by_itself(path: Path) -> None:
    async def main() -> None:
        async with sitq.SQLiteBackend(path) as backend:
            ended(backend, DAYS)
            queue = sitq.TaskQueue(backend)
            async with sitq.Worker(backend, retention=timedelta(days=1, hours=1)):
                task_id = await queue.enqueue(len, "four")
                assert await queue.result(task_id, timeout=20) == 4
                await until(lambda: len(backend.list_all_tasks()) == 3)
            assert set(await backend.alist_all_tasks()) == {"0 days", "1 days", task_id}

    asyncio.run(main())


def test_a_worker_purges_again_and_again(path: Path) -> None:
    async def main() -> None:
        async with sitq.SQLiteBackend(path) as backend, sitq.Worker(backend, retention=0.2):
            queue = sitq.TaskQueue(backend)
            for _ in range(2):
                task_id = await queue.enqueue(len, "four")
                await until(lambda gone=task_id: backend.get_task(gone) is None)

    asyncio.run(main())


@pytest.mark.parametrize("retention", [-1, "1 day", float("nan"), True])
def test_a_retention_that_cannot_be_is_refused(path: Path, retention: Any) -> None:
    with pytest.raises(sitq.ConfigurationError, match="retention"):
        sitq.Worker(sitq.SQLiteBackend(path), retention=retention)


def test_a_backend_that_cannot_purge_takes_no_retention() -> None:
    sitq.Worker(DictBackend({}))
    with pytest.raises(sitq.ConfigurationError, match="apurge"):
        sitq.Worker(DictBackend({}), retention=60)


# Reading without writing.

RESULT = sitq.Result(task_id="x")
CLAIM = ClaimRequest("w", ("default",), 1, 30.0)

WRITES: dict[str, tuple[Any, ...]] = {
    "store_task": (sitq.Task(id="x", function=b"f"),),
    "update_task_status": ("x", "failed"),
    "store_result": ("x", RESULT),
    "enqueue": ([{"id": "x", "function": b"f", "created_at": datetime.now(UTC)}],),
    "pause_queue": ("default",),
    "resume_queue": ("default",),
    "claim": (CLAIM,),
    "finish": ([],),
    "finish_and_claim": ([], CLAIM),
    "extend": ([], 30.0),
    "reap": (),
    "restore": ("backup.db",),
    "vacuum": (),
    "optimize": (),
}


@pytest.mark.parametrize("verb", [*WRITES, "purge"])
def test_every_verb_that_writes_is_refused_to_a_reader_through_both_doors(path: Path, verb: str) -> None:
    filled(path, 1)
    arguments = WRITES.get(verb, ())
    options = {"older_than": 0} if verb == "purge" else {}

    async def through_the_async_door(backend: sitq.SQLiteBackend) -> None:
        async with backend:
            await getattr(backend, f"a{verb}")(*arguments, **options)

    with (
        sitq.SQLiteBackend(path, readonly=True) as backend,
        pytest.raises(sitq.ReadOnlyError, match="readonly=True"),
    ):
        getattr(backend, verb)(*arguments, **options)
    with pytest.raises(sitq.ReadOnlyError, match="readonly=True"):
        asyncio.run(through_the_async_door(sitq.SQLiteBackend(path, readonly=True)))


def test_a_reader_may_look_check_and_back_up(path: Path) -> None:
    ids = filled(path, 3)
    before = path.read_bytes()
    with sitq.SQLiteBackend(path, readonly=True) as reader:
        assert reader.list_all_tasks() == ids
        assert reader.get_stats().pending_tasks == 3
        assert reader.check().ok
        reader.backup(path.with_name("copy.db"))
        with reader.engine.connect() as connection, pytest.raises(Exception, match="readonly database"):
            connection.exec_driver_sql("DELETE FROM tasks")
    assert path.read_bytes() == before
    with sitq.SQLiteBackend(path.with_name("copy.db")) as copy:
        assert copy.list_all_tasks() == ids


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_a_reader_of_an_older_schema_is_told_the_way(path: Path, revision: str) -> None:
    filled(path, 1)
    with sitq.SQLiteBackend(path) as backend, backend._database.dialect.lock_schema(backend.engine) as connection:
        schema.downgrade(connection, revision)
    with pytest.raises(sitq.SchemaOutdatedError, match=f"{revision}.*sitq upgrade"):
        sitq.SQLiteBackend(path, readonly=True).initialize()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(f"SELECT version_num FROM {schema.VERSION_TABLE}").fetchall() == [(revision,)]


# Carrying data over.


def test_the_documented_loop_keeps_every_column(backend: sitq.SQLiteBackend, tmp_path: Path) -> None:
    queue = sitq.SyncTaskQueue(backend)
    queue.options(priority=3, delay=timedelta(days=1), max_retries=4, timeout=9).enqueue(len, "later")
    queue.enqueue(len, 5)
    queue.enqueue(len, "four")
    run_all(backend)
    queue.enqueue(len, "cancelled")
    cancel_one(backend, "enough")
    queue.enqueue(len, "running")
    claim_one(backend)

    old_backend, new_backend = backend, sitq.SQLiteBackend(tmp_path / "new.db")
    task_ids = old_backend.list_all_tasks()
    for task_id in task_ids:
        task = old_backend.get_task(task_id)
        new_backend.store_task(task)
        if old_backend.has_result(task_id):
            result = old_backend.get_result(task_id)
            new_backend.store_result(task_id, result)

    with new_backend:
        for table in ("tasks", "results"):
            rows = [every_row(each, table) for each in (old_backend, new_backend)]
            assert rows[0] == rows[1]
            assert rows[0]


def every_row(backend: sitq.SQLiteBackend, table: str) -> list[Any]:
    with backend.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")]


def test_the_documented_loop_works_over_a_backend_of_ones_own(backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    ids = [queue.enqueue(len, "four"), queue.enqueue(len, 5)]
    run_all(backend)
    middle, end = DictBackend({}), sitq.SQLiteBackend(":memory:")
    for old, new in ((backend, middle), (middle, end)):
        for task_id in ids:
            task = old.get_task(task_id)
            new.store_task(task)  # type: ignore[arg-type]  # it is there
            if old.has_result(task_id):
                new.store_result(task_id, old.get_result(task_id))  # type: ignore[arg-type]  # it is there
    with end:
        for table in ("tasks", "results"):
            assert every_row(backend, table) == every_row(end, table)


def test_listing_ids_reads_no_payload(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [(b"x" * 1000,)] * 10)
        with backend.engine.connect() as connection:
            plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT tasks.id FROM tasks ORDER BY tasks.id").all()
            assert "COVERING INDEX" in str(plan)
        assert backend.list_all_tasks() == ids


def test_the_index_of_ended_tasks_serves_the_statements_that_are_sent(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ended(backend, DAYS)
        sent: list[str] = []

        def purge(session: Any, models: Any) -> int:
            from sqlalchemy import event

            event.listen(session, "before_cursor_execute", lambda *call: sent.append(call[2]))
            (group,) = purging.ended_tasks(session, models, (TaskStatus.COMPLETED,), datetime.now(UTC))
            return purging.purge_some(session, models, group, datetime.now(UTC))

        assert backend._database.write(purge) == 4
        with backend.engine.connect() as connection:
            for statement in sent[:2]:
                values = ("x",) * (statement.count("?") - 1) + (1,)
                plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())
                assert "ix_tasks_history" in plan, plan
