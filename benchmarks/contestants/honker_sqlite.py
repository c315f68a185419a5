"""honker on SQLite."""

from __future__ import annotations

import asyncio
from typing import Any

import honker

from ..work import TASKS
from . import Contestant


class Entry(Contestant):
    """Its own worker, with its defaults; results are stored."""

    title = "honker"
    durability = "WAL, synchronous=NORMAL"
    share_drained = 0.3

    def __init__(self, place: str) -> None:
        """Declare the tasks, as honker wants it."""
        super().__init__(place)
        self.database = honker.open(f"{place}/honker.db")
        self.queue = self.database.queue("work")
        self.tasks: dict[str, Any] = {name: self.queue.task(name=name)(task) for name, task in TASKS.items()}

    def enqueue_one_by_one(self, count: int) -> None:
        """Call the task."""
        for number in range(count):
            self.tasks["noop"](number)

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """All in one transaction, which a call of the task cannot join: what it would enqueue is written out."""
        with self.database.transaction() as transaction:
            for number in range(count):
                call = {"__honker_task__": {"task": task, "args": [number], "kwargs": {}}}
                self.queue.enqueue(call, tx=transaction)

    def work(self, task: str) -> None:
        """A worker."""
        asyncio.run(self.database.run_workers(queue="work"))

    def count_done(self) -> int:
        """Count the results."""
        return self.database.query("SELECT count(*) AS done FROM _honker_results")[0]["done"]
