"""What a claim costs beside a million other rows: ``python -m benchmarks.scale [--rows N] [--database KIND]``.

A claim of ten due tasks, and their completion, in a table of 1,000 due tasks alone, and in tables that hold a million
finished, waiting or future tasks besides; the median of many, and the ratio. ``get_stats`` on each, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median

import sitq
from sitq.claims import ClaimRequest, Outcome

from .contest import empty_place

REQUEST = ClaimRequest("worker", ("default",), 10, 60.0)
CLAIMS = 80

NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i FROM n) AS n",
    "postgresql": "generate_series(1, {rows}) AS n(i)",
}
IDS = {"sqlite": "printf('f%035d', i)", "postgresql": "'f' || lpad(i::text, 35, '0')"}
BYTES = {"sqlite": "zeroblob(40)", "postgresql": "'\\x00'::bytea"}

OTHERS = {
    "finished": ("status, completed_at", "'completed', '2020-01-01 00:00:00'"),
    "waiting": ("status, priority", "'queued', -1"),
    "future": ("status, scheduled, due_at", "'queued', TRUE, '2199-01-01 00:00:00'"),
}
"""What is in the table besides, as columns and their values."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", choices=list(NUMBERS), action="append")
    options = parser.parse_args()
    print(f"| {options.rows:,} rows besides | claim and complete 10, ms | of a small table | get_stats, ms |")
    print("|---|---|---|---|")
    for kind in options.database or NUMBERS:
        small, _ = measure(kind, None, 0)
        print(f"| {kind}, none | {small * 1000:.2f} | 1.0 | |", flush=True)
        for others in OTHERS:
            took, stats = measure(kind, others, options.rows)
            print(f"| {kind}, {others} | {took * 1000:.2f} | {took / small:.2f} | {stats * 1000:.0f} |", flush=True)


def measure(kind: str, others: str | None, rows: int) -> tuple[float, float]:
    """The seconds of a claim with its completion, and those of the statistics."""
    with ExitStack() as stack:
        place = stack.enter_context(empty_place(kind))
        address = f"{place}/tasks.db" if kind == "sqlite" else place.replace("postgresql:", "postgresql+psycopg:", 1)
        backend = stack.enter_context(sitq.open_backend(address))
        if others is not None:
            fill(backend, kind, others, rows)
        sitq.SyncTaskQueue(backend).enqueue_many(abs, [(1,)] * 1_000)
        with backend.engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE tasks")
        times = [timed(lambda: claim_and_complete(backend)) for _ in range(CLAIMS)]
        return median(times[10:]), min(timed(backend.get_stats) for _ in range(5))


def fill(backend: sitq.SQLAlchemyBackend, kind: str, others: str, rows: int) -> None:
    """Insert the other rows by one statement."""
    columns, values = OTHERS[others]
    numbers = NUMBERS[kind].format(rows=rows)
    selected = f"{IDS[kind]}, {BYTES[kind]}, {values}"
    statement = f"INSERT INTO tasks (id, function, {columns}) SELECT {selected} FROM {numbers}"
    with backend.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def claim_and_complete(backend: sitq.SQLAlchemyBackend) -> None:
    """Ten tasks."""
    claims = backend.claim(REQUEST)
    assert len(claims) == REQUEST.limit, "there are enough due tasks for all claims"
    completed = sitq.TaskStatus.COMPLETED
    backend.finish([Outcome(token=claim.token, status=completed, at=datetime.now(UTC)) for claim in claims])


def timed(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
