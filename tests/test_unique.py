"""Unique keys: one unfinished task a key, however many ask at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import URL
from sqlalchemy.orm import Session

import sitq
from databases import KINDS, empty_database
from dict_backend import DictBackend
from sitq import (
    BaseBackend,
    ConfigurationError,
    DuplicateTaskError,
    SQLAlchemyBackend,
    SQLiteBackend,
    SyncTaskQueue,
    store,
)
from sitq.testing.records import new_row
from working import LONG, at_work, fail_until, note, ran, reset, run

THREADS, PROCESSES, KEYS = 8, 4, 25


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


def key_of_order(order: int, *, urgent: bool = False) -> str:
    return f"order-{order}"


@sitq.task(unique_key=key_of_order, priority=3)
def ship(order: int, *, urgent: bool = False) -> tuple[int, bool]:
    return note((order, urgent))


def test_a_call_whose_key_is_held_gets_the_id_of_the_task_that_stands(backend: BaseBackend) -> None:
    queue = SyncTaskQueue(backend)
    unique = queue.options(unique_key="nightly")
    first = unique.enqueue(note, 1)
    assert unique.enqueue(note, 2) == first
    assert unique.options(on_conflict="replace").enqueue(note, 3) == first
    with pytest.raises(DuplicateTaskError) as caught:
        unique.options(on_conflict="raise").enqueue(note, 4)
    assert caught.value.task_id == first
    assert "nightly" not in str(caught.value)

    async def scenario() -> None:
        async with at_work(backend) as working:
            assert await working.result(first, timeout=LONG) == 3
            again = await working.options(unique_key="nightly").enqueue(note, 5)
            assert again != first
            assert await working.result(again, timeout=LONG) == 5

    run(scenario)
    assert ran == [3, 5]


def test_keys_made_of_the_arguments_work_in_bulk(backend: BaseBackend) -> None:
    queue = SyncTaskQueue(backend)
    first = queue.enqueue(ship, 1)
    calls = [(1,), (2,), {"order": 2, "urgent": True}, (3,)]
    ids = queue.enqueue_many(ship, calls)
    assert ids[0] == first
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert [task.unique_key for task in reversed(queue.list())] == ["order-1", "order-2", "order-3"]
    assert queue.options(on_conflict="replace").enqueue_many(ship, calls) == ids
    with pytest.raises(DuplicateTaskError):
        queue.options(on_conflict="raise").enqueue_many(ship, [(8,), (9,), (3,)])
    assert len(queue.list()) == 3

    async def scenario() -> None:
        async with at_work(backend) as working:
            assert await working.result(ids[1], timeout=LONG) == (2, True)

    run(scenario)


def test_a_failed_task_holds_its_key_while_it_waits_for_its_retry(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            once = queue.options(unique_key="k", max_retries=1, retry_delay=1.5, retry_jitter=0)
            task_id = await once.enqueue(fail_until, "second", 2)
            while (await queue.get_task(task_id)).retry_count == 0:
                assert await once.enqueue(fail_until, "second", 2) == task_id
            assert await once.enqueue(fail_until, "second", 2) == task_id
            assert await queue.result(task_id, timeout=LONG) == 2

    run(scenario)


def backend_for(url: URL) -> BaseBackend:
    return SQLiteBackend(str(url.database)) if url.drivername == "sqlite" else SQLAlchemyBackend(url)


def together(count: int, call: Callable[[int], object]) -> list[object]:
    barrier = Barrier(count)

    def wait_and_call(number: int) -> object:
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(wait_and_call, range(count)))


@pytest.mark.parametrize("kind", [*KINDS, "dict"])
@pytest.mark.parametrize("conflict", ["skip", "replace", "raise"])
def test_eight_threads_that_ask_at_once_make_one_task_a_key(kind: str, conflict: str, tmp_path: Path) -> None:
    with DictBackend() if kind == "dict" else empty_database(kind, tmp_path) as given:
        backend = given if isinstance(given, BaseBackend) else backend_for(given)
        with backend:
            queue = SyncTaskQueue(backend)

            def ask(number: int) -> list[str]:
                ids = []
                for key in range(KEYS):
                    unique = queue.options(unique_key=f"key-{key}", on_conflict=conflict)  # type: ignore[arg-type]
                    try:
                        ids.append(unique.enqueue(note, number))
                    except DuplicateTaskError as error:
                        ids.append(error.task_id)
                return ids

            answers = together(THREADS, ask)
            assert all(answer == answers[0] for answer in answers)
            assert sorted(task.id for task in queue.list()) == sorted(answers[0])
            assert len(answers[0]) == KEYS


ASK = """
import sys
from sitq import SQLAlchemyBackend, SQLiteBackend, SyncTaskQueue

make = SQLAlchemyBackend if "://" in sys.argv[1] else SQLiteBackend
with make(sys.argv[1]) as backend:
    queue = SyncTaskQueue(backend)
    queue.list()
    print("ready", flush=True)
    sys.stdin.readline()
    print(*queue.enqueue_many(print, [()]) )
    ids = []
    for key in range(int(sys.argv[2])):
        unique = queue.options(unique_key=f"key-{key}", on_conflict=["skip", "replace"][key % 2])
        ids += unique.enqueue_many(print, [(1,), (2,)])
    print(*ids)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_that_ask_at_once_make_one_task_a_key(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        address = str(url.database) if kind == "sqlite" else url.render_as_string(hide_password=False)
        with backend_for(url) as backend:
            backend.initialize()
            command = [sys.executable, "-c", ASK, address, str(KEYS)]
            asking = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(PROCESSES)
            ]
            for process in asking:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in asking:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [process.communicate(timeout=2 * LONG)[0].splitlines() for process in asking]
            assert [process.returncode for process in asking] == [0] * PROCESSES
            [ids] = {lines[1] for lines in answers}
            assert ids.split()[::2] == ids.split()[1::2]
            assert len(backend.list_tasks()) == KEYS + PROCESSES
            assert {task.id for task in backend.list_tasks() if task.unique_key} == set(ids.split())


@pytest.mark.parametrize("key", [5, "", "  ", " k", "k ", "a\nb", "k" * 256, b"k", None, dict])
def test_a_key_that_cannot_be_is_refused(key: object) -> None:
    queue = SyncTaskQueue(DictBackend())
    if key is not None:
        with pytest.raises(ConfigurationError, match="unique_key="):
            queue.options(unique_key=key)  # type: ignore[arg-type]
    made = queue.options(unique_key=lambda *args: key)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigurationError, match="unique_key="):
        made.enqueue(note, 1)
    assert queue.list() == []


def test_what_to_do_about_a_conflict_needs_a_key() -> None:
    with pytest.raises(ConfigurationError, match="on_conflict needs unique_key"):
        SyncTaskQueue(DictBackend()).options(on_conflict="raise").enqueue(note, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_tasks_put_back_at_once_one_has_the_key(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url, backend_for(url) as one, backend_for(url) as other:
        backends, queue = (one, other), SyncTaskQueue(one).options(unique_key="k")
        pairs = []
        for _ in range(10):
            pairs.append([queue.enqueue(note, 1), ""])
            one.cancel([pairs[-1][0]])
            pairs[-1][1] = queue.enqueue(note, 2)
            one.cancel([pairs[-1][1]])
        for pair in pairs:
            answers = together(2, lambda number, pair=pair: backends[number].retry([pair[number]])[pair[number]])
            assert sorted(map(str, answers)) == ["duplicate", "queued"]
            one.cancel(pair)


@pytest.mark.parametrize("kind", KINDS)
def test_a_duplicate_leaves_a_transaction_of_the_callers_own_as_it_was(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url, backend_for(url) as backend:
        assert isinstance(backend, SQLAlchemyBackend)
        models = backend._database.models  # as the queue hands it to the store
        first, free, held = new_row(unique_key="held"), new_row(unique_key="free"), new_row(unique_key="held")
        with Session(backend.engine) as session:
            store.enqueue(session, models, [first])
            with pytest.raises(DuplicateTaskError):
                store.enqueue(session, models, [row | {"on_conflict": "raise"} for row in (free, held)])
            assert store.enqueue(session, models, [held]) == [first["id"]]
            session.commit()
        assert backend.list_all_tasks() == [first["id"]]
