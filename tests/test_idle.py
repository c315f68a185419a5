"""What it costs to do nothing: the statements of an idle worker, what is imported, how much memory a worker takes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine

import sitq
from databases import KINDS
from listeners import listening
from server_contract import emptied
from working import LONG, until

LOOK_FOR_TASKS = {"sqlite": 3, "postgresql": 2, "mariadb": 3}
"""Statements without the beginnings and ends of transactions that drivers make themselves."""

LOOK_FOR_THE_NEXT_TIME = {"sqlite": 2, "postgresql": 1, "mariadb": 1}


@contextmanager
def statements() -> Iterator[list[tuple[str, str]]]:
    """Gather each statement that any engine executes, and the thread that does."""
    gathered: list[tuple[str, str]] = []

    def gather(connection: object, cursor: object, statement: str, *more: object) -> None:
        gathered.append((threading.current_thread().name, statement))

    with listening(Engine, "before_cursor_execute", gather):
        yield gathered


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_worker_looks_with_so_many_statements(
    kind: str, tmp_path: Path, server_database: Callable[[str], URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count_calls(backend: sitq.BaseBackend, verb: str) -> None:
        call = getattr(backend, verb)

        async def count(*arguments: Any) -> Any:
            calls[verb] += 1
            return await call(*arguments)

        monkeypatch.setattr(backend, verb, count)

    async def scenario(backend: sitq.BaseBackend) -> list[tuple[str, str]]:
        await backend.areap()
        count_calls(backend, "afinish_and_claim")
        count_calls(backend, "anext_due_at")
        with statements() as gathered:
            async with asyncio.timeout(LONG), sitq.Worker(backend, poll_interval=0.01, lease=3600):
                del gathered[:]  # what it asks before it begins
                await until(lambda: calls["afinish_and_claim"] >= 20 and calls["anext_due_at"])
        return gathered

    database = tmp_path / "tasks.db" if kind == "sqlite" else emptied(server_database(kind))
    with sitq.open_backend(database) as backend:
        gathered = asyncio.run(scenario(backend))
    # But for what it does once: it begins to listen, and looks for lapsed leases.
    again = [each for each in gathered if not (each[0] == "sitq-listener" or "lease_until <=" in each[1])]
    by_writer = sum(thread == "sitq-writer" for thread, _ in again)
    assert by_writer == calls["afinish_and_claim"] * LOOK_FOR_TASKS[kind]
    assert len(again) - by_writer == calls["anext_due_at"] * LOOK_FOR_THE_NEXT_TIME[kind]


IMPORT = """
import sys
import sqlalchemy.ext.asyncio
before = set(sys.modules)
import sitq
print(*sorted(set(sys.modules) - before))
"""

ENQUEUE = """
import os.path, sys, sitq
with sitq.open_backend(sys.argv[1]) as backend:
    sitq.SyncTaskQueue(backend).enqueue(os.path.basename, "four")
print(*sys.modules)
"""

DIALECTS = {
    "sqlite": "sqlalchemy.dialects.sqlite",
    "postgresql": "sqlalchemy.dialects.postgresql",
    "mariadb": "sqlalchemy.dialects.mysql",
}

NOT_AT_ONCE = {
    *("alembic", "mako", "typer", "rich", "multiprocessing", "psycopg", "pymysql", "asyncmy", "asyncpg", "sqlcipher3"),
    *("http", "email", "pydoc", "getpass", "aiosqlite"),
    *DIALECTS.values(),
}
"""What takes long to import, and is for those who use it."""


def modules_after(script: str, *arguments: str) -> set[str]:
    """The modules that a script names, which runs in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=True)
    return set(done.stdout.split())


def test_importing_sitq_imports_little_beside_sqlalchemy() -> None:
    imported = modules_after(IMPORT)
    assert imported & NOT_AT_ONCE == set()
    others = {name for name in imported if name.partition(".")[0] not in ("sitq", "sqlalchemy")}
    assert len(others) < 20, others


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_enqueue_imports_the_dialect_of_its_own_database_only(
    kind: str, tmp_path: Path, server_database: Callable[[str], URL]
) -> None:
    database = str(tmp_path / "tasks.db") if kind == "sqlite" else server_database(kind).render_as_string(False)
    with sitq.open_backend(database) as backend:
        backend.initialize()
    imported = modules_after(ENQUEUE, database)
    assert imported & {"alembic", *DIALECTS.values()} == {DIALECTS[kind]}


WORKER = """
import sys
import sitq

sitq.Worker(sitq.SQLiteBackend(sys.argv[1])).run()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of the memory of a process there")
def test_a_worker_takes_less_than_80_megabytes_and_no_more_after_thousands_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"

    def work_and_tell(queue: sitq.SyncTaskQueue, tasks: int) -> int:
        """The kilobytes that the worker's process takes after so many tasks."""
        queue.enqueue_many(len, [("a" * 100,) for _ in range(tasks)])
        last = queue.options(priority=-1).enqueue(Path.read_text, Path("/proc/self/status"))
        status = queue.result(last, timeout=LONG)
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        with subprocess.Popen([sys.executable, "-c", WORKER, str(path)]) as worker:
            try:
                warm = work_and_tell(queue, 1000)
                later = [work_and_tell(queue, 1000) for _ in range(2)]
            finally:
                worker.terminate()
    assert later[-1] < 80 * 1024
    assert later[-1] < warm * 1.05
