"""Workers are killed by SIGKILL in the middle of transactional tasks: each effect is there exactly once.

python tests/proofs transactional
python tests/proofs transactional --kills 10 --on sqlite --seed 17
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import sitq
from sitq import SyncTaskQueue, open_backend

INSERT = text("INSERT INTO effects (number, part) VALUES (:number, :part)")
WAITING = 8  # tasks that are there for each worker that is to be killed
PAUSE = 0.03  # seconds that a function rests in the middle, at most
PATIENCE = 60.0  # seconds; nothing waits for so long unless it is broken

WORKER = """
import logging, sys
import proofs.transactional
assert "pytest" not in sys.modules  # nothing of sitq imports it
logging.disable(logging.WARNING)  # of workers that died
proofs.transactional.work(*sys.argv[1:])
"""


@sitq.task(transactional=True, max_crashes=None)
def order(number: int, journal: str, session: Session = sitq.injected) -> int:
    write_half(session, number, "first half")
    _queue.enqueue_in(session, confirm, number, journal)
    note(journal, number)
    time.sleep(random.uniform(0, PAUSE))
    write_half(session, number, "second half")
    return number


@sitq.task(transactional=True, max_crashes=None)
async def confirm(number: int, journal: str, session: AsyncSession = sitq.injected) -> int:
    await session.run_sync(write_half, number, "confirmed")
    note(journal, number)
    await asyncio.sleep(random.uniform(0, PAUSE))
    return number


def write_half(session: Session, number: int, part: str) -> None:
    session.execute(INSERT, {"number": number, "part": part})


def note(journal: str, number: int) -> None:
    """Tell outside of the transaction that an attempt is in the middle of it."""
    with Path(journal).open("a") as file:
        file.write(f"{number}\n")


_queue: SyncTaskQueue


def work(url: str) -> None:
    """What a worker process does once it is told to go on."""
    global _queue  # noqa: PLW0603  # as an app's module has its queue
    with open_backend(url) as backend:
        _queue = SyncTaskQueue(backend)
        print("ready", flush=True)
        sys.stdin.readline()
        sitq.Worker(backend, concurrency=4).run()


def start_worker(url: URL) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WORKER, url.render_as_string(hide_password=False)]
    folder = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def let_go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == "ready\n", worker.communicate()[1]
    worker.stdin.write("go\n")
    worker.stdin.flush()


@dataclass
class Evidence:
    """What was found after all kills.

    Attributes:
        tasks: how many orders were enqueued.
        undone: attempts that had written rows, and were killed before they had committed.
        wrong: what is not there exactly once.
    """

    tasks: int
    undone: int
    wrong: list[str]

    def __str__(self) -> str:
        return f"{self.tasks} orders, {self.undone} attempts undone, {len(self.wrong)} effects wrong"


class Proof:
    """One database, and the workers that are killed over it."""

    def __init__(self, url: URL, folder: Path, seed: int) -> None:
        self.url = url
        self.journal = folder / "journal"
        self.journal.touch()
        self.random = random.Random(seed)
        self.backend = open_backend(url)
        self.queue = SyncTaskQueue(self.backend)
        self.ids: list[str] = []

    def run(self, kills: int) -> Evidence:
        with self.backend:
            with self.backend.engine.begin() as connection:
                connection.execute(text("CREATE TABLE effects (number INTEGER NOT NULL, part VARCHAR(20) NOT NULL)"))
            worker = start_worker(self.url)
            for _ in range(kills):
                self.enqueue_some()
                following = start_worker(self.url)  # its start costs no time of its own
                let_go(worker)
                self.kill_in_the_middle(worker)
                worker = following
            let_go(worker)
            self.wait_for_the_rest()
            worker.terminate()
            errors = worker.communicate(timeout=PATIENCE)[1]
            assert errors == "", errors
            return self.examine()

    def enqueue_some(self) -> None:
        unfinished = self.backend.get_stats().pending_tasks
        rows = [(len(self.ids) + number, str(self.journal)) for number in range(WAITING - unfinished)]
        self.ids += self.queue.enqueue_many(order, rows)

    def kill_in_the_middle(self, worker: subprocess.Popen[str]) -> None:
        """Kill it while some attempt has written rows; now and then a little later, perhaps in its commit."""
        until = self.attempts() + self.random.randint(1, 5)
        deadline = time.monotonic() + PATIENCE
        while self.attempts() < until:
            assert time.monotonic() < deadline, "no task began"
            assert worker.poll() is None, worker.communicate()[1]
            time.sleep(0.001)
        if self.random.random() < 0.5:
            time.sleep(self.random.uniform(0, PAUSE * 2))
        worker.kill()
        worker.communicate()

    def attempts(self) -> int:
        """How many attempts have written rows so far."""
        return self.journal.read_bytes().count(b"\n")

    def wait_for_the_rest(self) -> None:
        deadline = time.monotonic() + PATIENCE * 2
        while self.backend.get_stats().pending_tasks + self.backend.get_stats().running_tasks:
            assert time.monotonic() < deadline, "the tasks did not end"
            time.sleep(0.05)

    def examine(self) -> Evidence:
        with self.backend.engine.connect() as connection:
            found = Counter((row.number, row.part) for row in connection.execute(text("SELECT * FROM effects")))
        numbers = range(len(self.ids))
        wanted = Counter((number, part) for number in numbers for part in ("first half", "second half", "confirmed"))
        wrong = [f"{key} is there {found[key]} times" for key in found | wanted if found[key] != wanted[key]]
        tasks = self.queue.list()
        wrong += [f"{task.id} is {task.status}" for task in tasks if task.status != "completed"]
        wrong += [f"there are {len(tasks)} tasks"] if len(tasks) != 2 * len(self.ids) else []
        wrong += [
            f"{task_id} has another result"
            for number, task_id in enumerate(self.ids)
            if self.queue.result(task_id, timeout=0) != number
        ]
        return Evidence(len(self.ids), self.attempts() - len(tasks), wrong)


def prove(kind: str, kills: int, seed: int) -> Evidence:
    """Kill workers over a new database of a kind."""
    from databases import empty_database  # not in the workers

    with tempfile.TemporaryDirectory() as name, empty_database(kind, Path(name)) as url:
        # Without the name of a driver there is one for each door.
        return Proof(url.set(drivername=url.get_backend_name()), Path(name), seed).run(kills)


def main(arguments: list[str]) -> int:
    from .killing import run  # not in the workers

    return run("transactional", prove, arguments)
