"""litequeue: messages only, no functions and no results."""

from __future__ import annotations

import sqlite3
from functools import cached_property

from litequeue import LiteQueue

from ..work import TASKS
from . import Contestant


class Entry(Contestant):
    """Messages are popped and marked as done, one by one."""

    title = "litequeue (messages only)"
    durability = "WAL, synchronous=NORMAL"
    share_drained = 0.2

    @cached_property
    def queue(self) -> LiteQueue:
        """One that stays open; opening sets WAL and NORMAL."""
        return LiteQueue(f"{self.place}/litequeue.db", timeout=60)

    def set_up(self) -> None:
        """Make the table."""
        self.queue.close()
        del self.queue

    def enqueue_one_by_one(self, count: int) -> None:
        """Put messages."""
        queue = self.queue
        for number in range(count):
            queue.put(str(number))

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """Put messages in one transaction."""
        queue = self.queue
        with queue.transaction():
            for number in range(count):
                queue.put(str(number))

    def work(self, task: str) -> None:
        """Pop, run, mark as done."""
        queue, function = self.queue, TASKS[task]
        while True:
            message = queue.pop()
            if message is not None:
                function(int(message.data))
                queue.done(message.message_id, claim_id=message.claim_id)

    def count_done(self) -> int:
        """Count what is marked as done."""
        connection = sqlite3.connect(f"{self.place}/litequeue.db", timeout=60)
        return connection.execute("SELECT count(*) FROM [Queue] WHERE status = 2").fetchone()[0]
