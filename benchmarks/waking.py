"""How soon an idle worker in another process starts a task, how soon its result is back, and what idling costs.

    python benchmarks/waking.py [postgresql://user@host/database] [--tasks 300]

Tasks are sent at 20 a second; a task tells the time at which it ran. The time to its start begins before the call that
enqueues it; the time to its result ends when the caller, who waits in the process that enqueues, has it. What the
worker costs while it idles is its processor time over 10 seconds. Beside it, huey on an SQLite file, if installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import NullPool, create_engine, make_url

import sitq

TASKS = 300
A_SECOND = 20
IDLE = 10.0
"""Seconds of idling that are measured."""

PATIENCE = 30.0

WORKER = "import sys, sitq; sitq.Worker(sitq.open_backend(sys.argv[1])).run()"

HUEY = """
import time
from huey import SqliteHuey

huey = SqliteHuey(filename={database!r})

@huey.task()
def now():
    return time.time()
"""
HUEY_WORKER = "import sys; sys.path[0] = sys.argv[1]; from waking_by_huey import huey; huey.create_consumer().run()"


class Row(NamedTuple):
    """What was measured of one queue: milliseconds, and the share of one core while idle."""

    name: str
    start: list[float]
    result: list[float]
    idle: float | None


class Queue(NamedTuple):
    """How a task is sent whose result is the time at which it ran, and how that is awaited."""

    send: Callable[[], Any]
    wait: Callable[[Any], float]


def measure(name: str, queue: Queue, worker: subprocess.Popen[bytes], tasks: int) -> Row:
    """Measure one queue with a worker that runs already."""
    queue.wait(queue.send())
    time.sleep(1.0)
    idle = share_of_core(worker.pid)
    sent = []
    for _ in range(tasks):
        sent.append((time.time(), queue.send()))
        time.sleep(1 / A_SECOND)
    start = [1000 * (queue.wait(task) - began) for began, task in sent]
    result = []
    for _ in range(tasks // 2):
        began = time.time()
        queue.wait(queue.send())
        result.append(1000 * (time.time() - began))
        time.sleep(1 / A_SECOND)
    return Row(name, start, result, idle)


def share_of_core(process: int) -> float | None:
    """How much of a core a process takes; Linux says."""
    before = processor_seconds(process)
    time.sleep(IDLE)
    after = processor_seconds(process)
    return None if before is None or after is None else (after - before) / IDLE


def processor_seconds(process: int) -> float | None:
    """What a process has taken so far; ``schedstat`` counts nanoseconds, for each thread that lives."""
    threads = list(Path(f"/proc/{process}/task").glob("*/schedstat"))
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9 if threads else None


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a process of its own."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def of_sitq(name: str, database: str, tasks: int) -> Row:
    """Sitq on a database."""
    with sitq.open_backend(database) as backend, running("-c", WORKER, database) as worker:
        queue = sitq.SyncTaskQueue(backend)
        way = Queue(lambda: queue.enqueue(time.time), lambda task: queue.result(task, timeout=PATIENCE))
        return measure(name, way, worker, tasks)


def of_huey(folder: str, tasks: int) -> Row:
    """Huey on an SQLite file; it polls."""
    Path(folder, "waking_by_huey.py").write_text(HUEY.format(database=f"{folder}/huey.db"))
    sys.path.insert(0, folder)
    app: Any = importlib.import_module("waking_by_huey")
    with running("-c", HUEY_WORKER, folder) as worker:
        way = Queue(app.now, lambda task: task(blocking=True, timeout=PATIENCE))
        return measure("huey, SQLite", way, worker, tasks)


def run(server: str | None = None, tasks: int = TASKS) -> list[Row]:
    """Measure sitq on SQLite, on PostgreSQL if a server is given, and huey if it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [of_sitq("sitq, SQLite", f"{folder}/tasks.db", tasks)]
        if server is not None:
            with empty_database(server) as url:
                rows.append(of_sitq("sitq, PostgreSQL", url, tasks))
        try:
            rows.append(of_huey(folder, tasks))
        except ModuleNotFoundError:
            print("huey: not installed")
        return rows


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Make a database on the server, and drop it in the end."""
    name = f"sitq_benchmark_{uuid.uuid4().hex[:8]}"
    url = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def percentile(values: list[float], share: float) -> float:
    """The value that so great a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="How soon an idle worker in another process starts a task.")
    parser.add_argument("server", nargs="?", help="the URL of a PostgreSQL server")
    parser.add_argument("--tasks", type=int, default=TASKS)
    arguments = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    print(f"{os.cpu_count()} cores, {load}; {arguments.tasks} tasks, {A_SECOND} a second; milliseconds")
    print(f"{'queue':<18} {'start, median':>14} {'99%':>7} {'result, median':>15} {'99%':>7} {'idle':>7}")
    for row in run(arguments.server, arguments.tasks):
        start, result = (f"{statistics.median(each):.1f}" for each in (row.start, row.result))
        late = [f"{percentile(each, 0.99):.1f}" for each in (row.start, row.result)]
        idle = "-" if row.idle is None else f"{row.idle:.2%}"
        print(f"{row.name:<18} {start:>14} {late[0]:>7} {result:>15} {late[1]:>7} {idle:>7}")


if __name__ == "__main__":
    main()
