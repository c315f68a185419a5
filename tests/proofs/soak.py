"""The soak: ``python tests/proofs soak`` runs many tasks through workers of which one is killed every second.

One worker is left alive, so that its memory can be watched over the whole run.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

import sitq
from databases import KINDS, empty_database

from .ticks import tick

CONCURRENCY = 10
MORTALS = 2
ENQUEUED_AT_ONCE = 5_000
PATIENCE = 600.0  # seconds without any progress
HERE = Path(__file__).parents[1]

WORKER = """
import logging, sys, sitq

logging.getLogger("sitq").setLevel(logging.ERROR)
with sitq.open_backend(sys.argv[1]) as backend:
    sitq.Worker(backend, concurrency=int(sys.argv[2]), shutdown_timeout=60).run()
"""


@dataclass
class Figures:
    """What a soak showed. Memory is resident, in megabytes."""

    tasks: int
    kills: int = 0
    ran_again: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    killed_memory: list[float] = field(default_factory=list)
    survivor_memory: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        tenth_by_tenth = ", ".join(f"{each:.0f}" for each in tenths(self.survivor_memory))
        return "\n".join(
            (
                f"{self.tasks} tasks in {self.seconds:.1f} s ({self.tasks / self.seconds:.0f} a second)",
                f"{self.kills} workers killed, {self.ran_again} tasks ran again, at most {CONCURRENCY} a kill",
                f"memory of the killed workers: {spread(self.killed_memory)}",
                f"memory of the worker that lived: {spread(self.survivor_memory)}",
                f"at the end of each tenth of the time: {tenth_by_tenth}",
                *(self.problems or ["every task completed, the counts add up"]),
            )
        )


class Ticks:
    """The log, read as it grows: how often each call began and ended, and what each process has begun."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open()
        self.began: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.of_process: Counter[int] = Counter()

    def read(self) -> None:
        """Take in what is new."""
        while line := self._file.readline():
            what, process, number = line.split()
            self.of_process[int(process)] += 1
            (self.began if what == "began" else self.ended)[int(number)] += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Soak:
    """A run on an empty database."""

    def __init__(self, url: URL, folder: Path, *, tasks: int, every: float, mortals: int = MORTALS) -> None:
        self._url = url.render_as_string(hide_password=False)
        self._folder = folder
        self._every = every
        self._mortals = mortals
        self._figures = Figures(tasks)
        self._log = folder / "ticks"
        self._ticks = Ticks(self._log)
        self._backend = sitq.open_backend(url)

    def run(self) -> Figures:
        """Enqueue, kill until everything has ended, and count."""
        with ExitStack() as stack:
            stack.callback(self._ticks.close)
            stack.enter_context(self._backend)
            self._enqueue()
            began = time.monotonic()
            survivor = self._start(stack)
            mortals = deque(self._start(stack) for _ in range(self._mortals))
            self._kill_until_done(survivor, mortals, stack)
            self._figures.seconds = time.monotonic() - began
            for worker in (survivor, *mortals):
                worker.terminate()
            codes = [worker.wait(PATIENCE) for worker in (survivor, *mortals)]
            if not {0, -signal.SIGTERM}.issuperset(codes):  # the last may not have come so far as to stop by itself
                self._figures.problems.append(f"workers ended with {codes}")
            self._count()
        return self._figures

    def _enqueue(self) -> None:
        queue = sitq.SyncTaskQueue(self._backend).options(max_crashes=None)
        tasks = self._figures.tasks
        for first in range(0, tasks, ENQUEUED_AT_ONCE):
            numbers = range(first, min(first + ENQUEUED_AT_ONCE, tasks))
            queue.enqueue_many(tick, [(str(self._log), number) for number in numbers])

    def _start(self, stack: ExitStack) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "error", "-c", WORKER, self._url, str(CONCURRENCY)]
        worker = subprocess.Popen(command, cwd=HERE)
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        return worker

    def _kill_until_done(
        self, survivor: subprocess.Popen[bytes], mortals: deque[subprocess.Popen[bytes]], stack: ExitStack
    ) -> None:
        """Kill the oldest of the mortal workers once in a while, when it has begun something, and start another."""
        killed, progress, alive = time.monotonic(), 0, time.monotonic()
        while not (self._done() and self._figures.kills):
            time.sleep(0.02)
            self._ticks.read()
            now = time.monotonic()
            if self._ticks.began.total() > progress:
                progress, alive = self._ticks.began.total(), now
            if now - alive > PATIENCE:
                raise TimeoutError(f"nothing has begun for {PATIENCE:g} seconds")
            at_work = self._ticks.of_process[mortals[0].pid] or len(self._ticks.ended) == self._figures.tasks
            if now - killed >= self._every and at_work:
                killed = now
                self._note_memory(survivor, mortals[0])
                victim = mortals.popleft()
                victim.kill()
                victim.wait()
                self._figures.kills += 1
                mortals.append(self._start(stack))

    def _done(self) -> bool:
        if len(self._ticks.ended) < self._figures.tasks:
            return False
        stats = self._backend.get_stats()
        return not (stats.pending_tasks or stats.running_tasks)

    def _note_memory(self, survivor: subprocess.Popen[bytes], victim: subprocess.Popen[bytes]) -> None:
        self._figures.killed_memory.append(resident(victim.pid))
        if self._ticks.of_process[survivor.pid]:  # it has imported everything
            self._figures.survivor_memory.append(resident(survivor.pid))

    def _count(self) -> None:
        self._ticks.read()
        figures, stats, problems = self._figures, self._backend.get_stats(), self._figures.problems
        figures.ran_again = sum(times > 1 for times in self._ticks.began.values())
        if (stats.completed_tasks, stats.total_tasks) != (figures.tasks, figures.tasks):
            problems.append(f"{stats.total_tasks} tasks are in the database, {stats.completed_tasks} of them completed")
        if set(self._ticks.ended) != set(range(figures.tasks)):
            problems.append(f"{figures.tasks - len(self._ticks.ended)} tasks never did their work")
        if figures.ran_again > figures.kills * CONCURRENCY:
            problems.append(f"{figures.ran_again} tasks ran again, which is more than ran when workers were killed")


def resident(process: int) -> float:
    """The memory of a process, in megabytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def spread(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f} MB" if values else "not seen"


def tenths(values: list[float]) -> list[float]:
    """The values at the end of each tenth."""
    return [values[max(0, len(values) * tenth // 10 - 1)] for tenth in range(1, 11)] if values else []


def main(arguments: list[str]) -> int:
    """Run a soak and print its figures; return 1 if they do not add up."""
    parser = argparse.ArgumentParser(prog="python tests/proofs soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between kills")
    parser.add_argument("--database", choices=KINDS, default="sqlite")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sitq-soak-") as name:
        folder = Path(name)
        with empty_database(options.database, folder) as url:
            figures = Soak(url, folder, tasks=options.tasks, every=options.every).run()
    print(f"{options.database}: {figures}")
    return int(bool(figures.problems))
