"""Running the measurements: each in processes and a place of its own, the contestants in turn, several rounds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .contestants import Contestant, load
from .databases import empty_database, empty_folder, without_driver
from .work import FIRST

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0  # seconds, for one measurement

DRAINS = {"drain": "noop", "drain_async": "anoop", "drain_work": "compute"}
"""The tasks that are drained; a millisecond of work each in the last."""

COUNTS = {
    "one": 3_000,
    "concurrent": 10_000,
    "bulk": 10_000,
    "drain": 30_000,
    "drain_async": 30_000,
    "drain_work": 6_000,
}
"""So many are drained that what counts is not which process was there first."""


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        contestant: the name of its module.
        what: what was measured; drains by two processes end in ``_2``.
        rate: tasks a second.
    """

    contestant: str
    what: str
    rate: float


def figures_of(name: str, kind: str, scale: float) -> Iterator[Figure]:
    """One round of all that a contestant can do."""
    for what in load(name).measures:
        if what in DRAINS:
            yield Figure(name, what, drain(name, kind, what, 1, scale))
            yield Figure(name, f"{what}_2", drain(name, kind, what, 2, scale))
        else:
            yield Figure(name, what, enqueue(name, kind, what, scale))


def count_for(contestant: type[Contestant], what: str, scale: float) -> int:
    """How many tasks a contestant gets."""
    share = contestant.share * (contestant.share_drained if what in DRAINS else 1.0)
    return max(100, round(COUNTS[what] * share * scale))


def enqueue(name: str, kind: str, what: str, scale: float) -> float:
    """Tasks enqueued a second."""
    count = count_for(load(name), what, scale)
    with empty_place(kind) as place:
        printed = run(name, place, what, str(count))
    return count / float(printed.rpartition("seconds ")[2])


def drain(name: str, kind: str, what: str, processes: int, scale: float) -> float:
    """Tasks ended a second, from the first call to the last ending that is written."""
    contestant, task = load(name), DRAINS[what]
    count = count_for(contestant, what, scale)
    with empty_place(kind) as place, tempfile.TemporaryDirectory() as folder, ExitStack() as workers:
        run(name, place, "fill", str(count), task)
        watcher = contestant(place)
        firsts = [Path(folder, str(number)) for number in range(processes)]
        for first in firsts:
            workers.enter_context(worker(name, place, task, first))
        ended = wait_until_done(watcher, count)
        began = min(float(first.read_text()) for first in firsts if first.exists())
    return count / (ended - began)


def wait_until_done(watcher: Contestant, count: int) -> float:
    """Look now and then; return the time at which all had ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if watcher.count_done() >= count:
            return time.monotonic()
        time.sleep(0.02)
    raise TimeoutError(f"{watcher.title} did not end {count} tasks in {PATIENCE:g} s")


@contextmanager
def worker(name: str, place: str, task: str, first: Path) -> Iterator[None]:
    """A worker process, killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.measure", name, place, "work", "0", task],
        cwd=ROOT,
        env=os.environ | {FIRST: str(first)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run(name: str, place: str, *arguments: str) -> str:
    """Run one measurement, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", name, place, *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def empty_place(kind: str) -> Iterator[str]:
    """A folder, or a database on the local server, that is gone afterwards."""
    if kind == "sqlite":
        with empty_folder() as folder:
            yield folder
        return
    with empty_database(kind) as url:
        yield without_driver(url)
