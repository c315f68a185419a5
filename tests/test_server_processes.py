"""Several worker processes on a server, also when it goes down in the middle."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

import sitq
from databases import OwnPostgreSQL, empty_database, execute_alone
from test_processes import note

TASKS = 5_000

WORKER = """
import asyncio, sys, sitq

async def drain(url):
    backend = sitq.open_backend(url)
    async with backend, sitq.Worker(backend, concurrency=50):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(drain(sys.argv[1]))
"""


@contextmanager
def workers(url: URL, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that work until the end of the block, and must end well."""
    started = [start_worker(url) for _ in range(count)]
    try:
        for worker in started:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        yield started
        errors = [worker.communicate(timeout=60)[1] for worker in started]
        assert [worker.returncode for worker in started] == [0] * count, errors
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


def start_worker(url: URL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORKER, url.render_as_string(hide_password=False)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,  # where the task's module is imported from
    )


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_four_processes_run_five_thousand_tasks_once_each(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "ran"
    folder.mkdir()
    with empty_database(kind, tmp_path) as url, sitq.open_backend(url) as backend:
        backend.initialize()
        with workers(url, 4):
            queue = sitq.SyncTaskQueue(backend)
            ids = queue.enqueue_many(note, [(str(folder), number) for number in range(TASKS)])
            ended = {result.task_id: queue.unwrap(result) for result in queue.as_completed(ids, timeout=100)}
        assert [ended[task_id] for task_id in ids] == [number * number for number in range(TASKS)]
        assert Counter(file.stat().st_size for file in folder.iterdir()) == {1: TASKS}
        assert {task.claim_count for task in queue.list(limit=TASKS)} == {1}
        assert len({task.worker_id for task in queue.list(limit=TASKS)}) > 1


def test_a_restart_of_the_server_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    server = OwnPostgreSQL()
    name = f"sitq_test_{uuid.uuid4().hex[:12]}"
    execute_alone(server.url, f"CREATE DATABASE {name}")
    url = server.url.set(database=name)
    with sitq.PostgreSQLBackend(url) as backend, workers(url, 2):
        queue = sitq.SyncTaskQueue(backend)
        ids = queue.enqueue_many(time.sleep, [(0.01,)] * 2_000)
        restarting = threading.Thread(target=restart_twice, args=(server,))
        restarting.start()
        restarting.join()
        assert sum(1 for _ in queue.as_completed(ids, timeout=100)) == len(ids)
        stats = backend.get_stats()
        assert (stats.completed_tasks, stats.total_tasks) == (len(ids), len(ids))
    server.server.cleanup()


def restart_twice(server: OwnPostgreSQL) -> None:
    for _ in range(2):
        time.sleep(0.5)
        server.stop()
        time.sleep(0.5)
        server.start()
