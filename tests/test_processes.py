"""Several worker processes on one SQLite file."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import sitq

WORKER = """
import asyncio, sys, sitq

async def drain(path):
    backend = sitq.SQLiteBackend(path)
    async with backend, sitq.Worker(backend, concurrency=20, poll_interval=0.05):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(drain(sys.argv[1]))
"""


def note(folder: str, number: int) -> int:
    """Say once more that this task ran: the file grows by a byte each time."""
    with Path(folder, str(number)).open("ab") as file:
        file.write(b".")
    return number * number


def test_four_processes_run_two_thousand_tasks_once_each(tmp_path: Path) -> None:
    folder = tmp_path / "ran"
    folder.mkdir()
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend:
        queue = sitq.SyncTaskQueue(backend)
        workers = [start_worker(tmp_path / "tasks.db") for _ in range(4)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        ids = queue.enqueue_many(note, [(str(folder), number) for number in range(2_000)])
        ended = {result.task_id: queue.unwrap(result) for result in queue.as_completed(ids, timeout=120)}
        assert [ended[task_id] for task_id in ids] == [number * number for number in range(2_000)]
        errors = "".join(worker.communicate(timeout=60)[1] for worker in workers)
        assert [worker.returncode for worker in workers] == [0, 0, 0, 0], errors
        assert errors == ""
        assert Counter(file.stat().st_size for file in folder.iterdir()) == {1: 2_000}
        assert {backend.get_task(task_id).claim_count for task_id in ids[::50]} == {1}  # type: ignore[union-attr]
        assert len({task.worker_id for task in queue.list(limit=2_000)}) > 1


OPENER = """
import sys, sitq
print("ready", flush=True)
sys.stdin.readline()
with sitq.SQLiteBackend(sys.argv[1]) as backend:
    print(sitq.SyncTaskQueue(backend).enqueue(len, "x"), flush=True)
"""


def test_processes_that_make_the_file_at_once_all_use_it(tmp_path: Path) -> None:
    openers = [start(OPENER, tmp_path / "tasks.db") for _ in range(6)]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    said = [opener.communicate(timeout=60) for opener in openers]
    assert [errors for _, errors in said] == [""] * 6
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend:
        assert backend.list_all_tasks() == sorted(task_id.strip() for task_id, _ in said)


def test_a_worker_in_another_process_heeds_a_pause(tmp_path: Path) -> None:
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend:
        queue = sitq.SyncTaskQueue(backend)
        queue.pause("default")
        worker = start_worker(tmp_path / "tasks.db")
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        held = queue.enqueue(len, "abc")
        assert queue.get_result(held, timeout=0.5) is None  # ten looks of the worker
        assert queue.get_task(held).status == "queued"
        queue.resume("default")
        assert queue.result(held, timeout=30) == 3
        queue.pause("default")
        held = queue.enqueue(len, "abc")
        assert queue.get_result(held, timeout=0.5) is None
        assert worker.communicate(timeout=60)[1] == ""


def start_worker(path: Path) -> subprocess.Popen[str]:
    return start(WORKER, path)


def start(program: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,  # where the task's module is imported from
    )
