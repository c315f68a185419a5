"""huey on SQLite."""

from __future__ import annotations

from typing import Any

from huey import SqliteHuey

from ..work import TASKS
from . import Contestant


class Entry(Contestant):
    """One consumer thread a process; results are stored."""

    title = "huey, set to NORMAL"
    durability = "WAL, synchronous=NORMAL"
    share = 0.3
    synchronous = "NORMAL"

    def __init__(self, place: str) -> None:
        """Declare the tasks, as huey wants it."""
        super().__init__(place)
        self.huey = SqliteHuey("benchmark", filename=f"{place}/huey.db", timeout=60)
        self.huey.storage.conn.execute(f"PRAGMA synchronous={self.synchronous}")
        self.tasks: dict[str, Any] = {
            name: self.huey.task(name=name)(task) for name, task in TASKS.items() if name != "anoop"
        }

    def enqueue_one_by_one(self, count: int) -> None:
        """Call the task."""
        for number in range(count):
            self.tasks["noop"](number)

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """There is no faster way than one by one."""
        for number in range(count):
            self.tasks[task](number)

    def work(self, task: str) -> None:
        """A consumer."""
        self.huey.create_consumer(workers=1, periodic=False, initial_delay=0.001, max_delay=0.01).run()

    def count_done(self) -> int:
        """Count the results."""
        return self.huey.storage.result_store_size()
