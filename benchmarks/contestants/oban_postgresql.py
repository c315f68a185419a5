"""oban over psycopg, 100 jobs at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
from oban import Oban, job
from oban.cli import main as oban_command
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from ..work import TASKS
from . import Contestant

JOBS: dict[str, Any] = {name: job()(task) for name, task in TASKS.items()}


class Entry(Contestant):
    """Its own command is the worker, on uvloop; what a job returns is not kept."""

    title = "oban, limit 100"
    durability = "fsync on"

    def with_pool(self, use: Callable[[AsyncConnectionPool], Coroutine[Any, Any, Any]]) -> None:
        """Connect, and do something."""

        async def run() -> None:
            async with await Oban.create_pool(self.place) as pool:
                await use(pool)

        asyncio.run(run())

    def set_up(self) -> None:
        """Make the tables."""
        self.with_pool(install)

    def enqueue_one_by_one(self, count: int) -> None:
        """One job a transaction."""

        async def enqueue(pool: AsyncConnectionPool) -> None:
            oban = Oban(pool=pool)
            for number in range(count):
                await oban.enqueue(JOBS["noop"].new(number))

        self.with_pool(enqueue)

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """All jobs at once."""
        jobs = (JOBS[task].new(number) for number in range(count))
        self.with_pool(lambda pool: Oban(pool=pool).enqueue_many(jobs))

    def work(self, task: str) -> None:
        """A worker."""
        oban_command(["start", "--dsn", self.place, "--queues", "default:100", "--log-level", "WARNING"])

    def count_done(self) -> int:
        """Count the completed jobs."""
        with psycopg.connect(self.place) as connection:
            [done] = connection.execute("SELECT count(*) FROM oban_jobs WHERE state = 'completed'").fetchall()[0]
            return done
