"""The fault matrix: ``python tests/proofs matrix`` does every fault to every kind of database, and prints a table."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL

from databases import KINDS, empty_database

from .bench import bench
from .evidence import Event
from .faults import FAULTS
from .servers import database_on_small_disk, own_database

NEEDS_OWN_SERVER = ("database restarted",)
NEEDS_OWN_DISK = ("disk of the server full",)


@dataclass(frozen=True)
class Figures:
    """What a run showed. ``back`` is ``None`` where nothing was interrupted."""

    violations: list[str]
    tasks: int
    ran_again: int
    back: float | None


def run_fault(name: str, kind: str, folder: Path) -> Figures:
    """Do one fault to one kind of database, and judge what is left."""
    fault, _ = FAULTS[name]
    with database_for(name, kind, folder) as (url, host), bench(url, folder, host=host) as made:
        fault(made)
        made.drain()
        made.stop()
        return figures(made.log.read(), made.violations())


@contextmanager
def database_for(name: str, kind: str, folder: Path) -> Iterator[tuple[URL, object]]:
    """A database of the kind; on a server or a disk of ours if the fault needs one, which comes with it."""
    if name in NEEDS_OWN_SERVER:
        with own_database(kind) as (url, server):
            yield url, server
    elif name in NEEDS_OWN_DISK:
        with database_on_small_disk(kind) as (url, disk):
            yield url, disk
    else:
        with empty_database(kind, folder) as url:
            yield url, None


def figures(events: Sequence[Event], violations: list[str]) -> Figures:
    """Count: tasks, those that ran again though they had not failed, and seconds until work went on."""
    numbers = {event.number for event in events if event.what == "enqueued"}
    attempts: dict[tuple[int | None, int | None], list[float]] = {}
    for event in events:
        if event.what == "began":
            attempts.setdefault((event.number, event.attempt), []).append(event.at)
    again = [times for times in attempts.values() if len(times) > 1]
    return Figures(violations, len(numbers), len(again), seconds_to_come_back(events, again))


def seconds_to_come_back(events: Sequence[Event], again: list[list[float]]) -> float | None:
    """From the fault to the last task that ran again; for a fault that was healed, from there to the first ending."""
    began = [event.at for event in events if event.what == "fault"]
    healed = [event.at for event in events if event.what == "healed"]
    if healed:
        after = [event.at for event in events if event.what == "finished" and event.held and event.at > healed[-1]]
        return min(after) - healed[-1] if after else None
    return max(times[1] for times in again) - began[-1] if again and began else None


def main(arguments: list[str]) -> int:
    """Run the matrix, or a part of it; return 1 if a promise was broken."""
    options = parse(arguments)
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # of connections that a fault cuts
    broken = 0
    print(f"{'fault':40} {'database':11} {'ok':4} {'tasks':>5} {'ran again':>9} {'back after':>10} {'took':>6}")
    for name in options.fault or FAULTS:
        for kind in options.database or KINDS:
            if kind in FAULTS[name][1]:
                broken += print_row(name, kind)
    print("every promise was kept" if not broken else f"BROKEN: {broken}")
    return int(broken > 0)


def print_row(name: str, kind: str) -> bool:
    """Run one fault and print its row; say whether a promise was broken."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="sitq-matrix-") as folder:
            found = run_fault(name, kind, Path(folder))
    except pytest.skip.Exception as skipped:
        print(f"{name:40} {kind:11} NOT RUN: {skipped}", flush=True)
        return False
    ok = "ok" if not found.violations else "BAD"
    back = "-" if found.back is None else f"{found.back:.2f} s"
    took = f"{time.monotonic() - began:.1f} s"
    print(f"{name:40} {kind:11} {ok:4} {found.tasks:5} {found.ran_again:9} {back:>10} {took:>6}", flush=True)
    for violation in found.violations[:10]:
        print(f"    {violation}")
    return bool(found.violations)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/proofs matrix", description=__doc__)
    parser.add_argument("--database", action="append", choices=KINDS, help="only on these kinds; all unless given")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only these faults; all unless given")
    return parser.parse_args(arguments)
