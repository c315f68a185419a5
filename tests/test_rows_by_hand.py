"""Rows that somebody wrote by hand, as SQLite lets them: what cannot be read stops nothing else."""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import sitq
from working import LONG


def insert(path: Path, **columns: Any) -> None:
    row = {"id": "by-hand", "function": pickle.dumps(dict)} | columns
    connection = sqlite3.connect(path)
    with connection:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO tasks ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    connection.close()


def run_with(path: Path, **columns: Any) -> tuple[sitq.Task, sitq.Result]:
    """Insert a row, run it with one that was enqueued, and return how the first one ended."""
    sitq.SQLiteBackend(path).initialize()
    insert(path, **columns)

    async def main() -> tuple[sitq.Task, sitq.Result]:
        async with sitq.SQLiteBackend(path) as backend:
            queue = sitq.TaskQueue(backend)
            async with sitq.Worker(backend):
                assert await queue.result(await queue.enqueue(len, "abc"), timeout=LONG) == 3
                result = await queue.get_result("by-hand", timeout=LONG)
            assert result is not None
            assert len(await queue.list()) == 2
            return await queue.get_task("by-hand"), result

    return asyncio.run(main())


@pytest.mark.parametrize("created_at", ["yesterday", b"\x00", 2**62, float("inf"), None])
def test_a_time_that_is_none_reads_as_none(tmp_path: Path, created_at: Any) -> None:
    task, result = run_with(tmp_path / "tasks.db", created_at=created_at)
    assert not result.is_error
    assert task.created_at is None


@pytest.mark.parametrize("created_at", [1_700_000_000, 1_700_000_000.5])
def test_a_number_is_a_unix_time(tmp_path: Path, created_at: float) -> None:
    task, result = run_with(tmp_path / "tasks.db", created_at=created_at)
    assert not result.is_error
    assert task.created_at == datetime.fromtimestamp(created_at, UTC)


@pytest.mark.parametrize("value", ["many", None])
@pytest.mark.parametrize("column", ["priority", "retry_count", "max_retries"])
def test_a_number_that_is_none_counts_as_0(tmp_path: Path, column: str, value: object) -> None:
    _, result = run_with(tmp_path / "tasks.db", **{column: value})
    assert not result.is_error


@pytest.mark.parametrize("function", ["math:isclose", b""])
def test_what_is_no_pickle_fails_its_task_with_a_readable_message(tmp_path: Path, function: object) -> None:
    _, result = run_with(tmp_path / "tasks.db", function=function)
    assert (result.error_message or "").startswith("the function of task by-hand cannot be read: ")


def test_an_unknown_status_is_named_and_stops_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        backend.initialize()
        insert(path, status="pending")
        for ask in (lambda: queue.get_result("by-hand", timeout=0), lambda: queue.cancel("by-hand")):
            with pytest.raises(sitq.BackendError, match="'pending', written by hand; correct it to one of 'queued'"):
                ask()
        other = queue.enqueue(len, "abc")
        assert queue.get_result(other, timeout=0) is None
        backend.update_task_status("by-hand", "queued")
        assert queue.get_task("by-hand").status == "queued"
