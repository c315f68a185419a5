"""pgqueuer over asyncpg, in batches of 100."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.queries import Queries

from ..work import TASKS
from . import Contestant


class Entry(Contestant):
    """One entrypoint; what it returns is not kept, the end of each job is logged."""

    title = "pgqueuer, batch 100"
    durability = "fsync on"

    def with_queries(self, use: Callable[[Queries], Coroutine[Any, Any, Any]]) -> Any:
        """Connect, and do something."""

        async def run() -> Any:
            connection = await asyncpg.connect(self.place)
            try:
                return await use(Queries.from_asyncpg_connection(connection))
            finally:
                await connection.close()

        return asyncio.run(run())

    def set_up(self) -> None:
        """Make the tables."""
        self.with_queries(lambda queries: queries.install())

    def enqueue_one_by_one(self, count: int) -> None:
        """One job a transaction."""

        async def enqueue(queries: Queries) -> None:
            for number in range(count):
                await queries.enqueue("work", pickle.dumps(number))

        self.with_queries(enqueue)

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """All jobs at once."""
        payloads: list[bytes | None] = [pickle.dumps(number) for number in range(count)]
        self.with_queries(lambda queries: queries.enqueue(["work"] * count, payloads, [0] * count))

    def work(self, task: str) -> None:
        """A worker."""

        async def run() -> None:
            queuer = PgQueuer.from_asyncpg_connection(await asyncpg.connect(self.place))

            @queuer.entrypoint("work")
            async def work(job: Any) -> None:
                TASKS["noop"](pickle.loads(job.payload))

            await queuer.run(batch_size=100, dequeue_timeout=timedelta(seconds=1))

        asyncio.run(run())

    def count_done(self) -> int:
        """Count the successes in the log."""

        async def count() -> int:
            connection = await asyncpg.connect(self.place)
            try:
                return await connection.fetchval("SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")
            finally:
                await connection.close()

        return asyncio.run(count())
