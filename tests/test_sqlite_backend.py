"""The SQLite backend as a file on a disk: opening, closing, sharing, forking, failing."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

import sitq
from sitq.claims import ClaimRequest, Outcome
from sitq.documented import SQLITE_TASKS
from sitq.ids import new_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


def row(**columns: Any) -> dict[str, Any]:
    return {
        "id": new_id(),
        "function": b"f",
        "name": "f",
        "queue": "default",
        "priority": 0,
        "max_retries": 0,
        "created_at": datetime.now(UTC),
        **columns,
    }


def test_the_constructor_touches_nothing(path: Path) -> None:
    backend = sitq.SQLiteBackend(path)
    assert repr(backend) == f"SQLiteBackend({str(path)!r})"
    assert list(path.parent.iterdir()) == []


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with sitq.SQLiteBackend(tmp_path / "a" / "b c" / "tasks?#%.db") as backend:
        backend.initialize()
    assert (tmp_path / "a" / "b c" / "tasks?#%.db").exists()


def test_a_relative_path_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = sitq.SQLiteBackend("tasks.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with backend:
        pass
    assert (tmp_path / "tasks.db").exists()


def test_closing_folds_the_log_into_the_file(path: Path, tmp_path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ids = backend.enqueue([row() for _ in range(500)])
        other = sqlite3.connect(path)  # keeps SQLite from folding by itself at the last close
        other.execute("SELECT count(*) FROM tasks").fetchone()
    shutil.copy2(path, tmp_path / "copy.db")
    other.close()
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT count(*) FROM tasks").fetchone() == (len(ids),)
    copy.close()


def test_a_closed_backend_opens_again(path: Path) -> None:
    backend = sitq.SQLiteBackend(path)
    with backend:
        first = backend.enqueue([row()])
    with backend:
        second = backend.enqueue([row()])
        assert backend.list_all_tasks() == first + second

    async def again() -> list[str]:
        async with backend:
            await backend.aenqueue([row()])
        async with backend:
            return await backend.alist_all_tasks()

    assert len(asyncio.run(again())) == 3
    backend.close()
    backend.close()


def test_every_event_loop_may_use_it(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        for expected in range(1, 4):
            asyncio.run(backend.aenqueue([row()]))
            assert len(asyncio.run(backend.alist_all_tasks())) == expected


def test_closing_lets_its_threads_end(path: Path) -> None:
    before = set(threading.enumerate())

    async def use() -> None:
        async with sitq.SQLiteBackend(path) as backend:
            await backend.aenqueue([row()])
            await backend.alist_all_tasks()

    asyncio.run(use())
    with sitq.SQLiteBackend(path) as backend:
        asyncio.run(backend.aenqueue([row()]))
        asyncio.run(backend.alist_all_tasks())
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)  # told to end, it may have a step to go
        assert not thread.is_alive(), thread


def test_memory_is_one_database_for_both_doors_and_all_threads() -> None:
    with sitq.SQLiteBackend(":memory:") as backend, sitq.SQLiteBackend(":memory:") as other:
        (task_id,) = backend.enqueue([row()])
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(backend.get_task, task_id).result() is not None
        assert asyncio.run(backend.aget_task(task_id)) is not None
        assert other.get_task(task_id) is None


@pytest.mark.parametrize("database", ["file", "memory"])
def test_threads_and_coroutines_enqueue_at_once(path: Path, database: str) -> None:
    """8 threads and 50 coroutines: nothing lost, nothing failed."""
    with sitq.SQLiteBackend(path if database == "file" else ":memory:") as backend:
        queue, sync_queue = sitq.TaskQueue(backend), sitq.SyncTaskQueue(backend)

        async def from_coroutines() -> list[str]:
            async def one(number: int) -> list[str]:
                return [await queue.enqueue(divmod, number, 7) for _ in range(10)]

            return list(chain.from_iterable(await asyncio.gather(*map(one, range(50)))))

        with ThreadPoolExecutor(9) as pool:
            coroutines = pool.submit(asyncio.run, from_coroutines())
            threads = [
                pool.submit(lambda n: [sync_queue.enqueue(divmod, n, 7) for _ in range(50)], n) for n in range(8)
            ]
            ids = coroutines.result() + [task_id for thread in threads for task_id in thread.result()]
        assert len(set(ids)) == 900
        assert sorted(ids) == backend.list_all_tasks()


def test_only_the_faulty_writer_gets_the_error(path: Path) -> None:
    """Writes that were committed together fall apart into single ones when one of them is refused."""
    with sitq.SQLiteBackend(path) as backend:
        taken = row()
        backend.enqueue([taken])

        async def enqueue_all() -> list[Any]:
            rows = [row() for _ in range(20)]
            rows[7] = row(id=taken["id"])
            return await asyncio.gather(*(backend.aenqueue([each]) for each in rows), return_exceptions=True)

        answers = asyncio.run(enqueue_all())
        assert [number for number, answer in enumerate(answers) if isinstance(answer, sitq.BackendError)] == [7]
        assert len(backend.list_all_tasks()) == 20


def test_a_bulk_is_enqueued_whole_or_not_at_all(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        twice = row()
        with pytest.raises(sitq.BackendError):
            backend.enqueue([row(), twice, twice])
        assert backend.list_all_tasks() == []


def test_errors_show_no_payload(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        twice = row(function=b"the secret payload")
        with pytest.raises(sitq.BackendError) as caught:
            backend.enqueue([twice, twice])
        chain: BaseException | None = caught.value
        while chain is not None:
            assert "secret payload" not in str(chain)
            chain = chain.__cause__ or chain.__context__


FORK = """
import os, sys, sitq
backend = sitq.SQLiteBackend(sys.argv[1])
queue = sitq.SyncTaskQueue(backend)
queue.enqueue(len, "parent before")
children = []
for number in range(3):
    child = os.fork()
    if child == 0:
        for _ in range(20):
            queue.enqueue(len, "child")
        backend.close()
        os._exit(0)
    children.append(child)
for _ in range(20):
    queue.enqueue(len, "parent after")
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
print(len(backend.list_all_tasks()))
backend.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_it_survives_fork(path: Path) -> None:
    # In a process of its own: a fork of the test runner would carry the runner's threads with it.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("81", "")
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"a letter to my grandmother, and more than enough of it" * 50)
    before = path.read_bytes()
    with pytest.raises(sitq.NotADatabaseError, match=str(path)) as caught:
        sitq.SQLiteBackend(path).initialize()
    assert caught.value.__cause__ is not None
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("made_by_hand", "options", "error"),
    [
        ("CREATE TABLE tasks (id INTEGER PRIMARY KEY, title TEXT)", {}, sitq.ForeignTableError),
        (SQLITE_TASKS, {"auto_upgrade": False}, sitq.SchemaOutdatedError),
    ],
)
def test_a_file_that_is_refused_keeps_every_byte(
    path: Path, made_by_hand: str, options: dict[str, Any], error: type[Exception]
) -> None:
    app = sqlite3.connect(path)
    app.execute(made_by_hand)
    app.close()
    before = path.read_bytes()
    with pytest.raises(error):
        sitq.SQLiteBackend(path, **options).initialize()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(sitq.DatabasePermissionError, match=str(tmp_path)):
        sitq.SQLiteBackend(tmp_path).initialize()


def test_a_file_where_a_folder_should_be(path: Path) -> None:
    path.write_text("")
    with pytest.raises(sitq.DatabasePermissionError, match="folder"):
        sitq.SQLiteBackend(path / "deeper" / "tasks.db").initialize()


def test_a_driver_error_names_the_file_and_keeps_its_cause(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        backend.enqueue([row()])
        other = sqlite3.connect(path)
        other.execute("DROP TABLE results")
        other.commit()
        other.close()
        with pytest.raises(sitq.BackendError, match="no such table") as caught:
            backend.get_result("x")
        assert str(path) in str(caught.value)
        assert caught.value.__cause__ is not None


def test_every_question_of_a_worker_seeks_an_index(path: Path) -> None:
    """Whatever else the table holds: the plans of a round, of the next due time and of the reaper."""
    with sitq.SQLiteBackend(path) as backend:
        backend.enqueue([row(), row(due_at=datetime(2999, 1, 1, tzinfo=UTC))])
        asked: list[tuple[str, Any]] = []

        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if "FROM tasks" in statement or statement.startswith("UPDATE tasks"):
                asked.append((statement, parameters))

        event.listen(backend.engine, "before_cursor_execute", note)
        (claim,) = backend.claim(ClaimRequest("worker", ("default",), 10, 30.0))
        backend.finish([Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=backend.now(), value=b"v")])
        backend.next_due_at(("default",))
        backend.reap()
        backend.enqueue([row() for _ in range(3)])
        claims = backend.claim(ClaimRequest("worker", ("default",), 10, 30.0))
        backend.extend([each.token for each in claims], 30.0)
        backend.reap_workers(["worker"])
        assert backend.isolated_waiting(("default",))
        (alone,) = backend.claim(ClaimRequest("worker", ("default",), 10, 30.0))
        assert alone.isolated
        event.remove(backend.engine, "before_cursor_execute", note)

        with backend.engine.connect() as connection:
            for statement, parameters in asked:
                values = parameters[0] if isinstance(parameters, list) else parameters
                plan = [line[3] for line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
                assert any("USING" in line and "INDEX" in line for line in plan), (statement, plan)
                assert not any("TEMP B-TREE" in line or line.startswith("SCAN tasks") for line in plan), (
                    statement,
                    plan,
                )
                if statement.startswith("UPDATE"):
                    assert any("sqlite_autoindex_tasks_1 (id=?)" in line for line in plan), (statement, plan)
        seen = " ".join(statement for statement, _ in asked)
        assert "priority DESC" in seen
        assert "lease_until" in seen
        assert "due_at" in seen
