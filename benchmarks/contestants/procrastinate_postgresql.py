"""procrastinate over psycopg."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import procrastinate
import psycopg

from ..work import note_first
from . import Contestant


class Entry(Contestant):
    """The worker runs 100 jobs at once; what they return is not kept."""

    title = "procrastinate"
    durability = "fsync on"
    share = 0.2

    def __init__(self, place: str) -> None:
        """Declare the task."""
        super().__init__(place)
        logging.disable()
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=place))

        @self.app.task(name="work")
        async def work(number: int) -> int:
            note_first()
            return number

        self.task = work

    def in_app(self, use: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Open the app, and do something."""

        async def run() -> None:
            async with self.app.open_async():
                await use()

        asyncio.run(run())

    def set_up(self) -> None:
        """Make the tables."""
        self.in_app(self.app.schema_manager.apply_schema_async)

    def enqueue_one_by_one(self, count: int) -> None:
        """Defer the task."""

        async def enqueue() -> None:
            for number in range(count):
                await self.task.defer_async(number=number)

        self.in_app(enqueue)

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """Defer a batch."""
        self.in_app(lambda: self.task.batch_defer_async(*({"number": number} for number in range(count))))

    def work(self, task: str) -> None:
        """A worker."""
        self.in_app(lambda: self.app.run_worker_async(concurrency=100, install_signal_handlers=False))

    def count_done(self) -> int:
        """Count the successes."""
        with psycopg.connect(self.place) as connection:
            found = connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
            return found.fetchall()[0][0]
