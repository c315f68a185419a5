"""Whether an old snapshot slows a drain on PostgreSQL: ``python -m benchmarks.snapshot [--seconds N] [--rounds N]``.

One worker process drains while this one enqueues, so that a backlog is always there; alternately with and without
another session that holds a snapshot from before the first claim, as a report or a backup does. As long as it is held,
nothing that ends can be tidied away. The rate is counted in steps, since what cannot be tidied adds up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psycopg

from .__main__ import is_there
from .contest import empty_place, worker
from .contestants import Contestant, load
from .report import PAGE, when, write_between

NAMES = ("sitq_postgresql", "pgqueuer_postgresql")
STEPS = 6
BACKLOG = 60_000
"""Tasks that wait when a step begins: more than any contestant drains in one."""


def main() -> None:
    """Measure, print a table, and write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshot")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the snapshot is held (default 60)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--write", action="store_true", help="write the table into the page about performance")
    options = parser.parse_args()
    step = options.seconds / STEPS
    ends = " | ".join(f"{step * number:g} s" for number in range(1, STEPS + 1))
    lines = [
        f"{when()}, {options.rounds} rounds\n",
        f"| tasks a second, until | {ends} | all | of the rate without |\n|{'---|' * (STEPS + 3)}",
    ]
    print("\n".join(lines), flush=True)
    for name in filter(is_there, options.only or NAMES):
        for line in table(name, options.rounds, step):
            print(line, flush=True)
            lines.append(line)
    if options.write:
        write_between(PAGE, "snapshot", "\n".join(lines))


def table(name: str, rounds: int, step: float) -> Iterator[str]:
    """The rows of a contestant, as Markdown: the medians of its rounds."""
    rates: dict[bool, list[list[float]]] = {False: [], True: []}
    for number in range(rounds):
        for held in (False, True) if number % 2 == 0 else (True, False):
            rates[held].append(drain(name, held, step))
    alone = median(sum(each) for each in rates[False])
    for held, what in ((False, "no snapshot"), (True, "one held")):
        steps = [median(each) for each in zip(*rates[held], strict=True)]
        total = median(sum(each) for each in rates[held])
        cells = " | ".join(f"{rate:,.0f}" for rate in (*steps, total / STEPS))
        yield f"| {load(name).title}, {what} | {cells} | {total / alone:.2f} |"


def drain(name: str, held: bool, step: float) -> list[float]:
    """Tasks ended a second in each step, from the first that ends."""
    task = "anoop" if "drain_async" in load(name).measures else "noop"
    with ExitStack() as stack:
        place = stack.enter_context(empty_place("postgresql"))
        contestant = load(name)(place)
        contestant.set_up()
        contestant.enqueue_in_bulk(BACKLOG, task)
        if held:
            stack.enter_context(snapshot(place))
        folder = stack.enter_context(TemporaryDirectory())
        stack.enter_context(worker(name, place, task, Path(folder, "first")))
        return list(rates_of(contestant, task, step))


@contextmanager
def snapshot(place: str) -> Iterator[None]:
    """Hold a transaction that has begun to read, and go on seeing what there was."""
    with psycopg.connect(place) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM pg_class")
        yield


def rates_of(contestant: Contestant, task: str, step: float) -> Iterator[float]:
    """Tasks ended a second, a figure for each step; what was drained is enqueued anew."""
    while not (before := contestant.count_done()):
        time.sleep(0.05)
    began = time.monotonic()
    enqueued = BACKLOG
    for _ in range(STEPS):
        contestant.enqueue_in_bulk(BACKLOG + before - enqueued, task)
        enqueued = BACKLOG + before
        time.sleep(max(0.0, began + step - time.monotonic()))
        done, ended = contestant.count_done(), time.monotonic()
        yield (done - before) / (ended - began)
        before, began = done, ended


if __name__ == "__main__":
    main()
