"""Who enqueues, and tells the log what was committed and what was rolled back; also a process that is killed."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

import sitq

from . import tasks
from .evidence import Log

KINDS: tuple[tuple[Callable[..., Any], dict[str, Any], str], ...] = (
    (tasks.work, {}, "completed"),
    (tasks.work_later, {}, "completed"),
    (tasks.work, {}, "completed"),
    (tasks.fail_once, {"max_retries": 2, "retry_delay": 0.05}, "completed"),
    (tasks.work_later, {}, "completed"),
    (tasks.fail_always, {"max_retries": 1, "retry_delay": 0.05}, "failed"),
)


class Enqueuer:
    """Enqueues calls of all kinds, every second one in a transaction of its own, and rolls others back."""

    def __init__(self, backend: sitq.SQLAlchemyBackend, log: Log, *, first: int = 0, seconds: float = 0.02) -> None:
        self._backend = backend
        self._queue = sitq.SyncTaskQueue(backend)
        self._log = log
        self._seconds = seconds
        self._numbers = itertools.count(first)

    def enqueue(
        self, function: Callable[..., Any], argument: object, *, ends: str = "completed", **options: Any
    ) -> str:
        """Enqueue one call, and return its id when it is committed."""
        number = next(self._numbers)
        planned = {"number": number, "ends": ends, "max_retries": options.get("max_retries", 0)}
        self._log.write("enqueueing", **planned)
        queue = self._queue.options(**options)
        if number % 2:
            task_id = queue.enqueue(function, number, argument)
        else:
            with Session(self._backend.engine) as session:
                task_id = queue.enqueue_in(session, function, number, argument)
                session.commit()
        self._log.write("enqueued", task=task_id, **planned)
        return task_id

    def enqueue_some(self, count: int) -> None:
        """Enqueue so many calls, and roll some more back."""
        for index, (function, options, ends) in zip(range(count), itertools.cycle(KINDS), strict=False):
            self.enqueue(function, self._seconds, ends=ends, **options)
            if index % 4 == 0:
                self.roll_back()

    def roll_back(self) -> None:
        """Enqueue in a transaction that is rolled back."""
        number = next(self._numbers)
        with Session(self._backend.engine) as session:
            task_id = self._queue.enqueue_in(session, tasks.work, number, 0.0)
            session.flush()
            self._log.write("rolled_back", number=number, task=task_id)
            session.rollback()


def main() -> None:
    """Enqueue without end: ``python -m proofs.enqueuer URL LOG FIRST``."""
    url, log, first = sys.argv[1:]
    backend = sitq.open_backend(url)
    assert isinstance(backend, sitq.SQLAlchemyBackend)
    with backend:
        backend.initialize()
        enqueuer = Enqueuer(backend, Log(log), first=int(first), seconds=0.001)
        print("ready", flush=True)
        while True:
            enqueuer.enqueue_some(8)


if __name__ == "__main__":
    main()
