"""A claim beside a million other rows: ``python -m benchmarks.scale [--rows N] [--database KIND] [--write]``.

Claims of ten due tasks, in a table of 1,000 due tasks alone, and in tables that hold a million finished, waiting or
future tasks besides. The tables take turns, so that all of them share the machine's good and bad moments; completing
what was claimed, and enqueueing as many, is not timed. Every so many claims each database tidies up, as it does by
itself in the course of a day. ``get_stats`` is timed on each, too, and what one would ask by hand: a bare
``count(*)`` and one by queue and status, each when it has been asked for a while.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

import sitq
from sitq.claims import ClaimRequest, Outcome

from .databases import KINDS, empty_database, settle
from .report import PAGE, when, write_between

REQUEST = ClaimRequest("worker", ("default",), 10, 60.0)
DUE = 1_000
CLAIMS = 40
"""How many claims of each table are timed before the databases tidy up."""

WARMING = 5

WARM_AFTER = 3.0
"""For how many seconds the same is asked before: MariaDB keeps in memory what is read again after a second."""

NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i FROM n) AS n",
    "postgresql": "generate_series(1, {rows}) AS n(i)",
    "mariadb": "(SELECT seq AS i FROM seq_1_to_{rows}) AS n",
}
IDS = {
    "sqlite": "printf('f%035d', i)",
    "postgresql": "'f' || lpad(i::text, 35, '0')",
    "mariadb": "concat('f', lpad(i, 35, '0'))",
}
BYTES = {"sqlite": "zeroblob(40)", "postgresql": "'\\x00'::bytea", "mariadb": "x'00'"}

OTHERS = {
    "finished": ("status, completed_at", "'completed', '2020-01-01 00:00:00'"),
    "waiting": ("status, priority", "'queued', -1"),
    "future": ("status, scheduled, due_at", "'queued', TRUE, '2199-01-01 00:00:00'"),
}
"""What is in the table besides, as columns and their values."""

BY_HAND = ("SELECT count(*) FROM tasks", "SELECT queue, status, count(*) FROM tasks GROUP BY queue, status")


class Row(NamedTuple):
    """What was measured of a table, in seconds: a claim, ``get_stats``, and counting by hand."""

    claim: float
    stats: float
    counts: tuple[float, ...]


def main() -> None:
    """Measure, print a table, and write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5, help=f"of {CLAIMS} claims of each table (default 5)")
    parser.add_argument("--database", choices=KINDS, action="append")
    parser.add_argument("--write", action="store_true", help="write the table into the page about performance")
    options = parser.parse_args()
    lines = [f"{when()}, the median of {options.rounds * CLAIMS} claims\n", *headings(options.rows)]
    print("\n".join(lines), flush=True)
    for kind in options.database or KINDS:
        for line in table(kind, measure(kind, options.rows, options.rounds)):
            print(line, flush=True)
            lines.append(line)
    if options.write:
        write_between(PAGE, "scale", "\n".join(lines))


def headings(rows: int) -> tuple[str, str]:
    """The head of the table, as Markdown."""
    times = ("claim 10, ms", "of a small table", "`get_stats`, ms", "`count(*)`, ms", "by queue and status, ms")
    return f"| {rows:,} rows besides | {' | '.join(times)} |", "|---" * (len(times) + 1) + "|"


def table(kind: str, measured: dict[str, Row]) -> Iterator[str]:
    """The rows of the table, as Markdown."""
    small = measured["none"].claim
    for others, row in measured.items():
        counts = " | ".join(f"{count * 1000:.0f}" for count in (row.stats, *row.counts))
        yield f"| {kind}, {others} | {row.claim * 1000:.2f} | {row.claim / small:.2f} | {counts} |"


def measure(kind: str, rows: int, rounds: int) -> dict[str, Row]:
    """Fill a table for each of ``OTHERS`` and one with none of them, and let them take turns."""
    with ExitStack() as stack:
        backends = {
            others: stack.enter_context(sitq.open_backend(stack.enter_context(empty_database(kind))))
            for others in ("none", *OTHERS)
        }
        for others, backend in backends.items():
            if others != "none":
                fill(backend, kind, others, rows)
            enqueue(backend, DUE)
        claims = claim_in_turns(backends, kind, rounds)
        return {others: Row(claims[others], *count(backend)) for others, backend in backends.items()}


def fill(backend: sitq.SQLAlchemyBackend, kind: str, others: str, rows: int) -> None:
    """Insert the other rows by one statement."""
    backend.get_stats()
    columns, values = OTHERS[others]
    numbers = NUMBERS[kind].format(rows=rows)
    selected = f"{IDS[kind]}, {BYTES[kind]}, {values}"
    statement = f"INSERT INTO tasks (id, function, {columns}) SELECT {selected} FROM {numbers}"
    with backend.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def claim_in_turns(backends: dict[str, sitq.SQLAlchemyBackend], kind: str, rounds: int) -> dict[str, float]:
    """The median seconds of a claim in each table; another is the first each time, and none comes twice in a row."""
    names = list(backends)
    times: dict[str, list[float]] = {others: [] for others in backends}
    for _ in range(rounds):
        for backend in backends.values():
            settle(backend, kind)
        for number in range(-WARMING, CLAIMS):
            first = number % len(names)
            for others in (*names[first:], *names[:first]):
                took = timed_claim(backends[others])
                if number >= 0:
                    times[others].append(took)
    return {others: median(each) for others, each in times.items()}


def timed_claim(backend: sitq.SQLAlchemyBackend) -> float:
    """The seconds of a claim; its tasks are completed, and others enqueued in their stead."""
    began = time.perf_counter()
    claims = backend.claim(REQUEST)
    took = time.perf_counter() - began
    assert len(claims) == REQUEST.limit, "there are enough due tasks for all claims"
    completed = sitq.TaskStatus.COMPLETED
    backend.finish([Outcome(token=claim.token, status=completed, at=datetime.now(UTC)) for claim in claims])
    enqueue(backend, REQUEST.limit)
    return took


def enqueue(backend: sitq.SQLAlchemyBackend, tasks: int) -> None:
    """Enqueue due tasks."""
    sitq.SyncTaskQueue(backend).enqueue_many(abs, [(1,)] * tasks)


def count(backend: sitq.SQLAlchemyBackend) -> tuple[float, tuple[float, ...]]:
    """The seconds of ``get_stats``, and of counting by hand."""
    with backend.engine.connect() as connection:
        by_hand = (
            timed(lambda statement=statement: connection.exec_driver_sql(statement).all()) for statement in BY_HAND
        )
        return timed(backend.get_stats), tuple(by_hand)


def timed(work: Callable[[], object]) -> float:
    """The seconds of some work, the median of several times, with what it reads in the server's memory by then."""
    until = time.perf_counter() + WARM_AFTER
    while time.perf_counter() < until:
        work()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


if __name__ == "__main__":
    main()
