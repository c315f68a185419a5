"""Every way of making and using a backend that the documents print, with their names, values and order."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq import SQLiteBackend, TaskQueue, Worker
from sitq.access import operating_system_user


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def my_function(argument: str) -> str:
    return argument.upper()


CONSTRUCTORS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "file": (("tasks.db",), {}),
    "memory": ((":memory:",), {}),
    "path object": ((Path("data") / "tasks.db",), {}),
    "custom": (
        (),
        {
            "database": "production.db",
            "connection_pool_size": 10,
            "connection_timeout": 30.0,
            "enable_wal": True,
            "checkpoint_interval": 1000,
        },
    ),
    "high performance": (
        (),
        {
            "database": "high_volume.db",
            "connection_pool_size": 20,
            "max_overflow": 10,
            "connection_timeout": 60.0,
            "enable_wal": True,
            "synchronous": "NORMAL",
            "cache_size": 10000,
            "temp_store": "MEMORY",
        },
    ),
    "pooled": (
        (),
        {
            "database": "pooled.db",
            "connection_pool_size": 15,
            "max_overflow": 5,
            "pool_timeout": 30.0,
            "pool_recycle": 3600.0,
        },
    ),
    "write heavy": (
        (),
        {
            "database": "write_heavy.db",
            "enable_wal": True,
            "synchronous": "NORMAL",
            "journal_mode": "WAL",
            "cache_size": 20000,
            "temp_store": "MEMORY",
        },
    ),
    "locked": ((), {"database": "tasks.db", "connection_timeout": 60.0, "enable_wal": True}),
    "small": ((), {"database": "tasks.db", "cache_size": 1000, "connection_pool_size": 5}),
    "unsafe": ((), {"database": "tasks.db", "enable_wal": True, "synchronous": "OFF", "journal_mode": "MEMORY"}),
    "debug": ((), {"database": "debug.db", "debug": True, "log_queries": True}),
    "encrypted": (
        (),
        {"database": "encrypted.db", "encryption_key": "your-secret-key", "cipher": "AES-256"},
    ),
    "access": (
        (),
        {
            "database": "secure.db",
            "read_only_users": ["readonly_user"],
            "write_users": ["app_user"],
            "admin_users": ["admin_user", operating_system_user()],
        },
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_a_documented_constructor_makes_a_backend_that_runs_tasks(name: str) -> None:
    args, options = CONSTRUCTORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name == "unsafe" else "error")
        backend = SQLiteBackend(*args, **options)
    assert asyncio.run(run_one(backend)) == "ARG"


async def run_one(backend: SQLiteBackend) -> Any:
    async with backend:
        queue = TaskQueue(backend=backend)
        task_id = await queue.enqueue(my_function, "arg")
        worker = Worker(backend)
        await worker.start()
        value = await queue.result(task_id, timeout=30)
        await worker.stop()
    return value


def test_a_reader_opens_what_exists() -> None:
    asyncio.run(run_one(SQLiteBackend("read_heavy.db")))
    options: dict[str, Any] = {"connection_pool_size": 50, "cache_size": 50000, "readonly": True}
    with SQLiteBackend(database="read_heavy.db", **options) as backend:
        assert [backend.get_task(task_id) is not None for task_id in backend.list_all_tasks()] == [True]


def test_queues_share_a_backend() -> None:
    backend = SQLiteBackend("tasks.db")
    queue1 = TaskQueue(backend=backend)
    queue2 = TaskQueue(backend=backend)

    async def main() -> None:
        async with backend:
            task_id = await queue1.enqueue(my_function, "arg")
            assert (await queue2.get_task(task_id)).id == task_id

    asyncio.run(main())


def test_a_queue_without_a_backend_keeps_its_file_here() -> None:
    async def main() -> None:
        queue = TaskQueue()
        await queue.enqueue(my_function, "arg")
        await queue.aclose()

    asyncio.run(main())
    assert Path("sitq.db").exists()


def test_the_tables_are_made_on_first_use_as_documented() -> None:
    with SQLiteBackend("tasks.db") as backend:
        backend.initialize()
    connection = sqlite3.connect("tasks.db")
    columns = [line[1] for line in connection.execute("PRAGMA table_info(tasks)")]
    assert columns[:12] == [
        "id",
        "function",
        "args",
        "kwargs",
        "priority",
        "status",
        "created_at",
        "started_at",
        "completed_at",
        "retry_count",
        "max_retries",
        "error_message",
    ]
    columns = [line[1] for line in connection.execute("PRAGMA table_info(results)")]
    assert columns[:5] == ["task_id", "value", "is_error", "error_message", "completed_at"]
    connection.close()


def test_tuning_by_hand_leaves_a_file_that_works() -> None:
    asyncio.run(run_one(SQLiteBackend("tasks.db")))
    connection = sqlite3.connect("tasks.db")
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA cache_size=-64000", "PRAGMA busy_timeout=5000", "ANALYZE"):
        connection.execute(statement)
    connection.execute("VACUUM")
    connection.close()
    assert asyncio.run(run_one(SQLiteBackend("tasks.db"))) == "ARG"


def test_a_plain_copy_of_the_closed_file_is_a_backup() -> None:
    asyncio.run(run_one(SQLiteBackend("tasks.db")))
    shutil.copy2("tasks.db", "tasks_backup.db")
    with SQLiteBackend("tasks_backup.db") as backup, SQLiteBackend("tasks.db") as original:
        (task_id,) = original.list_all_tasks()
        assert backup.list_all_tasks() == [task_id]
        assert backup.get_result(task_id).value == original.get_result(task_id).value  # type: ignore[union-attr]


def test_a_dump_brings_everything_back() -> None:
    asyncio.run(run_one(SQLiteBackend("tasks.db")))
    old, new = sqlite3.connect("tasks.db"), sqlite3.connect("tasks_new.db")
    for line in old.iterdump():
        new.execute(line)
    old.close()
    new.close()
    shutil.move("tasks_new.db", "tasks.db")
    assert asyncio.run(run_one(SQLiteBackend("tasks.db"))) == "ARG"


def test_the_documented_migration_can_be_run_twice() -> None:
    old_backend = sitq.SQLiteBackend("old_tasks.db")
    new_backend = sitq.SQLiteBackend("new_tasks.db")
    asyncio.run(run_one(old_backend))
    sitq.SyncTaskQueue(old_backend).options(priority=7, delay=3600).enqueue(my_function, "later")

    for _ in range(2):
        task_ids = old_backend.list_all_tasks()
        for task_id in task_ids:
            task = old_backend.get_task(task_id)
            new_backend.store_task(task)
            if old_backend.has_result(task_id):
                result = old_backend.get_result(task_id)
                new_backend.store_result(task_id, result)

    assert dump("new_tasks.db", new_backend) == dump("old_tasks.db", old_backend)


def dump(path: str, backend: SQLiteBackend) -> list[Any]:
    backend.close()
    connection = sqlite3.connect(path)
    rows = [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("tasks", "results")]
    connection.close()
    assert [len(each) for each in rows] == [2, 1]
    return rows


STARTED, RELEASED = threading.Event(), threading.Event()


def hold() -> None:
    STARTED.set()
    assert RELEASED.wait(30)


def test_start_comes_back_at_once_and_stop_waits() -> None:
    async def main() -> None:
        async with SQLiteBackend("tasks.db") as backend:
            queue = TaskQueue(backend=backend)
            worker = Worker(backend)
            await worker.start()
            task_id = await queue.enqueue(hold)
            await asyncio.to_thread(STARTED.wait, 30)
            stopping = asyncio.create_task(worker.stop())
            RELEASED.set()
            await stopping
            assert (await queue.get_task(task_id)).status == "completed"

    asyncio.run(main())
