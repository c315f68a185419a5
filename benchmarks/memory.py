"""How much memory a worker's process takes while it runs many tasks; Linux says.

    python -m benchmarks.memory [--tasks 100000] [DATABASE]

The database is a new SQLite file unless a path or URL is given. Tasks are enqueued in bulk, a tenth of them
for each sample; with it is the most that this process, which enqueues, has taken so far.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import sitq

from .waking import WORKER, running

TASKS = 100_000
SAMPLES = 10
PATIENCE = 600.0
"""Seconds for a tenth of the tasks."""


class Sample(NamedTuple):
    """After so many tasks: megabytes of the worker now, at most so far, and of the process that enqueues at most."""

    tasks: int
    worker: float
    worker_at_most: float
    enqueuer_at_most: float


def run(database: str, tasks: int = TASKS) -> Iterator[Sample]:
    """Let a worker in a process of its own run so many tasks; give a sample after each tenth of them."""
    with sitq.open_backend(database) as backend, running("-c", WORKER, database) as worker:
        queue = sitq.SyncTaskQueue(backend)
        for done in range(0, tasks, tasks // SAMPLES):
            queue.enqueue_many(len, [("a" * 100,) for _ in range(tasks // SAMPLES)])
            queue.result(queue.options(priority=-1).enqueue(len, "the last"), timeout=PATIENCE)
            yield Sample(
                done + tasks // SAMPLES, memory(worker.pid), memory(worker.pid, "VmHWM"), memory("self", "VmHWM")
            )


def memory(process: int | str, line: str = "VmRSS") -> float:
    """The megabytes of a process: now, or with ``VmHWM`` at most so far."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith(line)) / 1024


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="How much memory a worker takes while it runs many tasks.")
    parser.add_argument("database", nargs="?")
    parser.add_argument("--tasks", type=int, default=TASKS)
    arguments = parser.parse_args()
    print(f"{'tasks':>8} {'worker':>10} {'at most':>10} {'enqueuer at most':>18}")
    with tempfile.TemporaryDirectory() as folder:
        for sample in run(arguments.database or f"{folder}/tasks.db", arguments.tasks):
            print(
                f"{sample.tasks:>8,} {sample.worker:>7.1f} MB {sample.worker_at_most:>7.1f} MB "
                f"{sample.enqueuer_at_most:>15.1f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
