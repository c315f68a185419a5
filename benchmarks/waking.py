"""How soon an idle worker in another process starts a task, how soon its result is back, and what idling costs.

    python -m benchmarks.waking [--database sqlite --database postgresql] [--tasks 300]

Tasks are sent at 20 a second; a task tells the time at which it ran. The time to its start is told from before the call
that enqueues it, and from when that has returned, which is the worker's share. The time to its result ends when the
caller, who waits in the process that enqueues, has it. What the worker costs while it idles is its processor time over
10 seconds. The first tasks of each, which import and prepare, do not count. Beside it, as far as installed, huey on an
SQLite file, which polls, and pgqueuer, which is woken and keeps no results; and psycopg by hand, as the limit: a row
that notifies with its commit, and an UPDATE that claims it and commits.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import sitq

from .databases import empty_database, without_driver

TASKS = 300
KINDS = ("sqlite", "postgresql")
WARM_UP = 20
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
PGQUEUER_WORKER = """
import asyncio, os, sys, time
import asyncpg
from pgqueuer import PgQueuer

async def run():
    queuer = PgQueuer.from_asyncpg_connection(await asyncpg.connect(sys.argv[1]))
    told = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)

    @queuer.entrypoint("work")
    async def work(job):
        os.write(told, f"{job.id} {time.time()}\\n".encode())

    await queuer.run()

asyncio.run(run())
"""
BY_HAND_TABLE = "CREATE TABLE jobs (id BIGSERIAL PRIMARY KEY, status TEXT NOT NULL)"
BY_HAND_SEND = """
WITH sent AS (INSERT INTO jobs (status) VALUES ('queued') RETURNING id) SELECT id, pg_notify('jobs', '') FROM sent
"""
BY_HAND_WORKER = """
import os, sys, time
import psycopg

connection = psycopg.connect(sys.argv[1], autocommit=True)
told = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
connection.execute("LISTEN jobs")
claim = (
    "UPDATE jobs SET status = 'running' WHERE id = ("
    "SELECT id FROM jobs WHERE status = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"
)
while True:
    for job in connection.execute(claim):
        os.write(told, f"{job[0]} {time.time()}\\n".encode())
    for _ in connection.notifies(timeout=0.5, stop_after=1):
        pass
"""
HUEY_WORKER = "import sys; sys.path[0] = sys.argv[1]; from waking_by_huey import huey; huey.create_consumer().run()"


class Row(NamedTuple):
    """What was measured of one queue: milliseconds, and the share of one core while idle."""

    name: str
    start: list[float]
    start_after: list[float]
    result: list[float]
    idle: float | None


class Queue(NamedTuple):
    """How a task is sent, and how the time at which it ran is awaited; that may be its result."""

    send: Callable[[], Any]
    wait: Callable[[Any], float]
    keeps_results: bool = True


def measure(name: str, queue: Queue, worker: subprocess.Popen[bytes], tasks: int) -> Row:
    """Measure one queue with a worker that runs already."""
    for _ in range(WARM_UP):
        queue.wait(queue.send())
    time.sleep(1.0)
    idle = share_of_core(worker.pid)
    sent = []
    for _ in range(tasks):
        sent.append((time.time(), queue.send(), time.time()))
        time.sleep(1 / A_SECOND)
    ran = [queue.wait(task) for _, task, _ in sent]
    start = [1000 * (at - began) for at, (began, _, _) in zip(ran, sent, strict=True)]
    start_after = [1000 * (at - returned) for at, (_, _, returned) in zip(ran, sent, strict=True)]
    return Row(name, start, start_after, times_to_results(queue, tasks // 2) if queue.keeps_results else [], idle)


def times_to_results(queue: Queue, tasks: int) -> list[float]:
    """How long it takes from before the call that enqueues to the result, in milliseconds."""
    times = []
    for _ in range(tasks):
        began = time.time()
        queue.wait(queue.send())
        times.append(1000 * (time.time() - began))
        time.sleep(1 / A_SECOND)
    return times


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
        return measure("huey, sqlite", way, worker, tasks)


def of_psycopg(folder: str, tasks: int) -> Row:
    """Psycopg by hand. The worker writes to a file when it had claimed."""
    psycopg, told = importlib.import_module("psycopg"), Path(folder, "ran")
    told.touch()
    with empty_database("postgresql") as url:
        address = without_driver(url)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(BY_HAND_TABLE)
            with running("-c", BY_HAND_WORKER, address, str(told)) as worker:
                way = Queue(lambda: connection.execute(BY_HAND_SEND).fetchone()[0], partial(time_told, told), False)
                return measure("psycopg by hand", way, worker, tasks)


def of_pgqueuer(folder: str, tasks: int) -> Row:
    """Pgqueuer over asyncpg. Its task writes to a file when it ran."""
    asyncpg, queries = importlib.import_module("asyncpg"), importlib.import_module("pgqueuer.queries")
    told = Path(folder, "ran")
    told.touch()
    with asyncio.Runner() as runner, empty_database("postgresql") as url:
        address = without_driver(url)
        connection = runner.run(asyncpg.connect(address))
        jobs = queries.Queries.from_asyncpg_connection(connection)
        runner.run(jobs.install())
        with running("-c", PGQUEUER_WORKER, address, str(told)) as worker:
            way = Queue(lambda: runner.run(jobs.enqueue("work", None))[0], partial(time_told, told), False)
            row = measure("pgqueuer, postgresql", way, worker, tasks)
        runner.run(connection.close())
    return row


def time_told(told: Path, job: int) -> float:
    """Read when a job ran, as soon as that is written."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for line in told.read_text().splitlines():
            number, _, ran = line.partition(" ")
            if number == str(job):
                return float(ran)
        time.sleep(0.01)
    raise TimeoutError(f"job {job} did not run in {PATIENCE:g} s")


def run(kinds: Sequence[str], tasks: int) -> Iterator[Row]:
    """Measure sitq on these kinds of databases, and the peers that are installed."""
    peers = {"sqlite": [of_huey], "postgresql": [of_psycopg, of_pgqueuer]}
    for kind in kinds:
        with empty_database(kind) as url:
            yield of_sitq(f"sitq, {kind}", url, tasks)
        for measure_it in peers[kind]:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    yield measure_it(folder, tasks)
                except ModuleNotFoundError as error:
                    print(f"not installed: {error.name}")


def percentile(values: list[float], share: float) -> float:
    """The value that so great a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="How soon an idle worker in another process starts a task.")
    parser.add_argument("--database", choices=KINDS, action="append", help="one kind of database (default all)")
    parser.add_argument("--tasks", type=int, default=TASKS)
    arguments = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    print(f"{os.cpu_count()} cores, {load}; {arguments.tasks} tasks, {A_SECOND} a second; milliseconds")
    print(f"{'queue':<20} {'start':>14} {'after the call':>16} {'result':>14} {'idle':>7}   (medians / 99%)")
    for row in run(arguments.database or KINDS, arguments.tasks):
        start, after, result = (both(times) for times in (row.start, row.start_after, row.result))
        idle = "-" if row.idle is None else f"{row.idle:.2%}"
        print(f"{row.name:<20} {start:>14} {after:>16} {result:>14} {idle:>7}", flush=True)


def both(times: list[float]) -> str:
    """The median and the 99th percentile."""
    return f"{statistics.median(times):.1f} / {percentile(times, 0.99):.1f}" if times else "-"


if __name__ == "__main__":
    main()
