"""taskito on SQLite."""

from __future__ import annotations

import logging
from typing import Any

import taskito

from ..work import TASKS
from . import Contestant


class Entry(Contestant):
    """Its own worker, with its defaults."""

    title = "taskito"
    durability = "as it sets it"
    share = 0.1
    share_drained = 0.3

    def __init__(self, place: str) -> None:
        """Declare the tasks, as taskito wants it."""
        super().__init__(place)
        logging.disable()
        self.queue = taskito.Queue(db_path=f"{place}/taskito.db")
        self.tasks: dict[str, Any] = {name: self.queue.task(name=name)(TASKS[name]) for name in ("noop", "compute")}

    def enqueue_one_by_one(self, count: int) -> None:
        """Delay the task."""
        for number in range(count):
            self.queue.enqueue("noop", (number,))

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """Enqueue many."""
        self.queue.enqueue_many(task, [(number,) for number in range(count)])

    def work(self, task: str) -> None:
        """A worker."""
        self.queue.run_worker()

    def count_done(self) -> int:
        """Ask for its statistics."""
        return self.queue.stats()["completed"]
