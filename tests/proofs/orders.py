"""A web process is killed by SIGKILL while it commits orders with their tasks: neither is ever there alone.

python tests/proofs orders
python tests/proofs orders --kills 10 --on sqlite --seed 17
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sqlalchemy import URL, create_engine, insert, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import sitq
from databases import empty_database
from ordering import AppBase, Order, async_engine_of, confirm, patient
from sitq import SQLAlchemyBackend, SyncTaskQueue, TaskQueue

from .killing import run

WAYS = ("session", "async", "connection")
A_PROCESS = 1_000_000  # orders of one process at most, so that ids tell processes apart
BEFORE_COMMIT = 0.005  # seconds between flush and commit, at most
PATIENCE = 60.0  # seconds; nothing waits for so long unless it is broken

WEB = """
import sys
import proofs.orders
proofs.orders.serve(*sys.argv[1:])
"""


class Journal:
    """Tells outside of the database how far each order has come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(self, event: str, order: int) -> None:
        os.write(self._file, f"{event} {order}\n".encode())

    def flushed(self, order: int) -> None:
        """Tell of an order that is flushed, and wait to be killed."""
        self.note("flushed", order)
        time.sleep(random.uniform(0, BEFORE_COMMIT))

    def orders(self, event: str) -> set[int]:
        """The orders of which this was told."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return {int(number) for told, number in lines if told == event}


def serve(address: str, journal: str, process: str, way: str) -> None:
    """What a web process does: one order after the other, until it is killed."""
    url, told = make_url(address), Journal(Path(journal))
    numbers = count(int(process) * A_PROCESS + 1)
    if way == "async":
        asyncio.run(serve_on_a_loop(async_engine_of(url), told, numbers))
        return
    engine = create_engine(url, **patient(url, {}))
    backend = SQLAlchemyBackend(engine)
    backend.initialize()
    queue = SyncTaskQueue(backend)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in numbers:
        if way == "session":
            order_in_a_session(Session(engine), queue, number, told)
        else:
            with engine.begin() as connection:
                task_id = queue.options(unique_key=f"order-{number}").enqueue_in(connection, confirm, number)
                connection.execute(insert(Order).values(id=number, task_id=task_id))
                told.flushed(number)
        told.note("committed", number)


def order_in_a_session(session: Session, queue: SyncTaskQueue | TaskQueue, number: int, told: Journal) -> None:
    with session, session.begin():
        session.add(Order(id=number, task_id=queue.enqueue_in(session, confirm, number)))
        session.flush()
        told.flushed(number)


async def serve_on_a_loop(engine: AsyncEngine, told: Journal, numbers: Iterator[int]) -> None:
    if engine.dialect.name == "sqlite":
        sitq.sqlite.configure(engine)
    backend = SQLAlchemyBackend(engine)
    await backend.ainitialize()
    queue = TaskQueue(backend)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in numbers:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(id=number, task_id=queue.enqueue_in(session, confirm, number)))
            await session.flush()
            told.flushed(number)
        told.note("committed", number)


@dataclass
class Evidence:
    """What was found after all kills.

    Attributes:
        orders: how many orders are there, each with its task unless ``wrong`` says otherwise.
        between: kills that came between flush and commit.
        wrong: orders without tasks, tasks without orders, and orders that were told to be committed and are not.
    """

    orders: int
    between: int
    wrong: list[str]

    def __str__(self) -> str:
        return f"{self.between} of them between flush and commit, {self.orders} orders, {len(self.wrong)} wrong"


class Proof:
    """One database, and the web processes that are killed over it."""

    def __init__(self, url: URL, folder: Path, seed: int) -> None:
        self.url = url
        self.journal = Journal(folder / "journal")
        self.random = random.Random(seed)
        self.engine = create_engine(url)
        self.backend = SQLAlchemyBackend(self.engine)

    def run(self, kills: int) -> Evidence:
        AppBase.metadata.create_all(self.engine)
        self.backend.initialize()
        try:
            web = self.start(0)
            for number in range(1, kills + 1):
                following = self.start(number) if number < kills else web  # its start costs no time of its own
                self.kill_at_work(web)
                web = following
            return self.examine()
        finally:
            self.backend.close()
            self.engine.dispose()

    def start(self, number: int) -> subprocess.Popen[str]:
        way = WAYS[number % len(WAYS)]
        arguments = (self.url.render_as_string(hide_password=False), str(self.journal.path), str(number), way)
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WEB, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def kill_at_work(self, web: subprocess.Popen[str]) -> None:
        """Let it go on, and kill it at some moment after it has flushed an order."""
        assert web.stdout is not None
        assert web.stdin is not None
        assert web.stdout.readline() == "ready\n", web.communicate()[1]
        size = self.journal.path.stat().st_size + self.random.randrange(1, 1000)
        web.stdin.write("go\n")
        web.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while self.journal.path.stat().st_size < size:
            assert time.monotonic() < deadline, "no order was flushed"
            assert web.poll() is None, web.communicate()[1]
            time.sleep(0.0005)
        time.sleep(self.random.uniform(0, BEFORE_COMMIT))
        end(web)

    def examine(self) -> Evidence:
        with Session(self.engine) as session:
            orders = {row.task_id: row.id for row in session.execute(select(Order.id, Order.task_id))}
        tasks = {task.id for task in SyncTaskQueue(self.backend).list()}
        committed, flushed = self.journal.orders("committed"), self.journal.orders("flushed")
        wrong = [f"order {number} has no task" for task_id, number in orders.items() if task_id not in tasks]
        wrong += [f"task {task_id} has no order" for task_id in tasks - orders.keys()]
        wrong += [f"order {number} was committed and is gone" for number in committed - set(orders.values())]
        return Evidence(len(orders), len(flushed - set(orders.values())), wrong)


def end(web: subprocess.Popen[str]) -> None:
    web.kill()
    web.communicate()


def prove(kind: str, kills: int, seed: int) -> Evidence:
    """Kill web processes over a new database of a kind."""
    with tempfile.TemporaryDirectory() as name, empty_database(kind, Path(name)) as url:
        return Proof(url, Path(name), seed).run(kills)


def main(arguments: list[str]) -> int:
    return run("orders", prove, arguments)
