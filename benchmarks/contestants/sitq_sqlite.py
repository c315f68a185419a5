"""sitq on SQLite."""

from __future__ import annotations

import asyncio
from functools import cached_property

import sitq

from ..work import TASKS
from . import Contestant

CONCURRENCY = 100
"""How many coroutines enqueue at once."""


class Entry(Contestant):
    """As the documents show it; the worker runs 100 tasks at once."""

    title = "sitq"
    durability = "WAL, synchronous=NORMAL"
    measures = ("one", "concurrent", "bulk", "drain", "drain_async", "drain_work")
    synchronous = "NORMAL"
    slots = 100

    def backend(self) -> sitq.SQLAlchemyBackend:
        """Open the file."""
        return sitq.SQLiteBackend(f"{self.place}/sitq.db", synchronous=self.synchronous)

    def set_up(self) -> None:
        """Make the tables."""
        with self.backend():
            pass

    @cached_property
    def opened(self) -> sitq.SQLAlchemyBackend:
        """The backend that enqueues; it stays open, since closing it is no part of enqueueing."""
        backend = self.backend()
        backend.initialize()
        return backend

    def enqueue_one_by_one(self, count: int) -> None:
        """By the sync door."""
        queue = sitq.SyncTaskQueue(self.opened)
        for number in range(count):
            queue.enqueue(TASKS["noop"], number)

    def enqueue_concurrently(self, count: int) -> None:
        """From 100 coroutines at once, each acknowledged only when durable."""

        async def enqueue_some(queue: sitq.TaskQueue) -> None:
            for number in range(count // CONCURRENCY):
                await queue.enqueue(TASKS["noop"], number)

        async def enqueue() -> None:
            queue = sitq.TaskQueue(self.opened)
            await asyncio.gather(*(enqueue_some(queue) for _ in range(CONCURRENCY)))

        asyncio.run(enqueue())

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """By ``enqueue_many``."""
        sitq.SyncTaskQueue(self.opened).enqueue_many(TASKS[task], ((number,) for number in range(count)))

    def work(self, task: str) -> None:
        """A worker."""
        sitq.Worker(self.backend(), concurrency=self.slots).run()

    def count_done(self) -> int:
        """Count the completed."""
        with self.opened.engine.connect() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM results").scalar_one()
