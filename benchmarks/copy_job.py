"""How fast, and in how much memory, `sitq.copy` moves tasks from SQLite to PostgreSQL, beside the raw drivers.

    python benchmarks/copy_job.py postgresql://user@host/database [TASKS ...]

Makes a database of its own on that server, and drops it. Half of the tasks have a result. Each measurement runs in a
process of its own, so that its memory is its own too; the best of three is printed, which other work on the machine
disturbed least. What the raw drivers do is the least that the same work takes: pages of rows out of `sqlite3`, and
into psycopg by INSERT or by COPY, without looking what is there already and without verifying.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import NullPool, create_engine, make_url

import sitq
from sitq.claims import ClaimRequest, Outcome
from sitq.ids import new_id
from sitq.models import TaskStatus
from sitq.records import RESULT_COLUMNS, TASK_COLUMNS

SIZES = (20_000, 200_000)
TIMES = 3
PAGE = 2_000


def fill(file: str, tasks: int) -> None:
    """Make a database with so many tasks, half of them completed."""
    with sitq.SQLiteBackend(file) as backend:
        for _ in range(0, tasks, PAGE):
            now = datetime.now(UTC)
            backend.enqueue(
                [
                    {"id": new_id(), "function": bytes(80), "args": bytes(60), "kwargs": None, "created_at": now}
                    | {"name": "shop.mail.send", "queue": "default", "priority": 0, "max_retries": 3}
                    for _ in range(PAGE)
                ]
            )
            claims = backend.claim(ClaimRequest("benchmark", ("default",), PAGE // 2, 60.0))
            backend.finish(
                [Outcome(token=each.token, status=TaskStatus.COMPLETED, at=now, value=bytes(40)) for each in claims]
            )


def by_sitq(file: str, url: str) -> tuple[float, float]:
    """Copy with sitq; return the seconds without verifying, and those of verifying."""
    with sitq.SQLiteBackend(file) as source, sitq.PostgreSQLBackend(url) as target:
        source.initialize()
        target.initialize()
        report = sitq.copy(source, target)
        assert report.complete
        return report.seconds, report.verify_seconds


def by_raw_insert(file: str, url: str) -> tuple[float, float]:
    """Copy with the drivers alone, by INSERT."""

    def insert(cursor: Any, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        places = ", ".join(["%s"] * len(columns))
        cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)

    return by_raw_drivers(file, url, insert)


def by_raw_copy(file: str, url: str) -> tuple[float, float]:
    """Copy with the drivers alone, by COPY."""

    def copy_in(cursor: Any, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    return by_raw_drivers(file, url, copy_in)


def by_raw_drivers(file: str, url: str, insert: Callable[..., None]) -> tuple[float, float]:
    """Copy pages out of one driver and into the other, each page a transaction."""
    with sitq.PostgreSQLBackend(url) as target:
        target.initialize()
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    began = time.perf_counter()
    with sqlite3.connect(file) as read, psycopg.connect(plain, options="-c timezone=UTC") as written:
        for page in raw_pages(read):
            with written.cursor() as cursor:
                insert(cursor, "tasks", TASK_COLUMNS, [as_task(row) for row in page])
                width = len(TASK_COLUMNS)
                insert(cursor, "results", RESULT_COLUMNS, [as_result(row[width:]) for row in page if row[width]])
            written.commit()
    return time.perf_counter() - began, 0.0


def raw_pages(read: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    """Pages of tasks with their results."""
    columns = ", ".join([*(f"t.{name}" for name in TASK_COLUMNS), *(f"r.{name}" for name in RESULT_COLUMNS)])
    page = f"SELECT {columns} FROM tasks t LEFT JOIN results r ON r.task_id = t.id WHERE t.id > ? ORDER BY t.id LIMIT ?"
    after = ""
    while rows := read.execute(page, (after, PAGE)).fetchall():
        after = rows[-1][0]
        yield rows


FLAGS = [TASK_COLUMNS.index(name) for name in ("scheduled", "isolated", "cancel_requested")]
ERROR = RESULT_COLUMNS.index("is_error")


def as_task(row: tuple[Any, ...]) -> list[Any]:
    """SQLite's 0 and 1 as booleans."""
    values = list(row[: len(TASK_COLUMNS)])
    for place in FLAGS:
        values[place] = bool(values[place])
    return values


def as_result(row: tuple[Any, ...]) -> list[Any]:
    """SQLite's 0 and 1 as booleans."""
    values = list(row)
    values[ERROR] = bool(values[ERROR])
    return values


WAYS = {"sitq.copy": by_sitq, "raw drivers, COPY": by_raw_copy, "raw drivers, INSERT": by_raw_insert}


def measure(way: str, file: str, url: str, sender: Any) -> None:
    """Run one way, and send its seconds and how much the memory of this process grew, in megabytes."""
    before = peak_memory()
    seconds = WAYS[way](file, url)
    sender.send((*seconds, peak_memory() - before))


def peak_memory() -> float:
    """The most memory that this process has had so far, in megabytes; Linux says."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measured_apart(way: str, file: str, server: str) -> tuple[float, float, float]:
    """``measure`` in a process of its own, into an empty database."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with empty_database(server) as url:
        process = context.Process(target=measure, args=(way, file, url, sender))
        process.start()
        sender.close()
        measured: tuple[float, float, float] = receiver.recv()
        process.join()
    return measured


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """Make a database on the server, and drop it in the end."""
    name = f"sitq_benchmark_{uuid.uuid4().hex[:8]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name}")


def main(server: str, sizes: list[int]) -> None:
    """Measure every way at every size, and print a table."""
    server = make_url(server).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; best of {TIMES}")
    print(f"{'tasks':>8}  {'way':<20} {'tasks/s':>9} {'verifying, tasks/s':>19} {'memory grew by':>15}")
    with tempfile.TemporaryDirectory() as folder:
        for tasks in sizes:
            file = str(Path(folder) / f"{tasks}.db")
            fill(file, tasks)
            for way in WAYS:
                runs = [measured_apart(way, file, server) for _ in range(TIMES)]
                seconds, verifying = (min(column) for column in list(zip(*runs, strict=True))[:2])
                grown = max(run[2] for run in runs)
                verified = f"{tasks / verifying:,.0f}" if verifying else "-"
                print(f"{tasks:>8,}  {way:<20} {tasks / seconds:>9,.0f} {verified:>19} {grown:>12.0f} MB", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], [int(size) for size in sys.argv[2:]] or list(SIZES))
