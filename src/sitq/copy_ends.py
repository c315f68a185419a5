"""The two ends of a copy: what records are read from, and what they are written to.

A database gives and takes pages of them in one statement each. A backend of somebody's own does so by the
documented verbs, one task after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime

from . import store
from .access import NO_CONTROL, Access
from .backends.base import BaseBackend
from .backends.sql import SQLAlchemyBackend
from .database import Database
from .models import TaskStatus
from .records import Record, plan, record_of, result_of, task_of
from .store import Written
from .transaction import Transaction


class Source(ABC):
    """What records are read from. Nothing is written to it."""

    @abstractmethod
    def count(self) -> int:
        """How many tasks there are."""

    @abstractmethod
    def first_running(self) -> str | None:
        """The id of a running task, if there is one."""

    @abstractmethod
    def page(self, after: str | None, limit: int) -> list[Record]:
        """At most so many records after this id, in the order of their ids; empty behind the last."""

    @abstractmethod
    def records(self, task_ids: Sequence[str]) -> list[Record]:
        """The records of these tasks, as far as they exist."""

    @abstractmethod
    def paused(self) -> list[tuple[str, datetime]]:
        """The names of the paused queues, and since when they are."""

    @abstractmethod
    def has_lapsed(self, record: Record) -> bool:
        """Whether nobody holds this running task any more."""


class Target(ABC):
    """What records are written to."""

    @abstractmethod
    def write(self, records: Sequence[Record]) -> Written:
        """Bring these records up to date, all of them or none where the storage can; say what became of each."""

    @abstractmethod
    def records(self, task_ids: Sequence[str]) -> list[Record]:
        """The records of these tasks, as they have been committed."""

    @abstractmethod
    def pause(self, states: Sequence[tuple[str, datetime]]) -> int:
        """Pause these queues, unless they were resumed here; return how many it paused."""

    def tell(self) -> None:
        """Let waiters in this process look at what has come."""


class DatabaseSource(Source):
    """A database, each page a transaction of its own, or all in one."""

    def __init__(self, database: Database | Transaction) -> None:
        self._database = database

    def count(self) -> int:
        return self._database.read(store.count_records)

    def first_running(self) -> str | None:
        return self._database.read(store.first_running)

    def page(self, after: str | None, limit: int) -> list[Record]:
        return self._database.read_in_transaction(store.read_page, after, limit)

    def records(self, task_ids: Sequence[str]) -> list[Record]:
        return self._database.read_in_transaction(store.read_records, task_ids)

    def paused(self) -> list[tuple[str, datetime]]:
        return self._database.read(store.paused_states)

    def has_lapsed(self, record: Record) -> bool:
        return record.lease_until is None or record.lease_until <= self._database.now()


class DatabaseTarget(Target):
    """A database, written each call a transaction, or all in one."""

    def __init__(self, database: Database | Transaction, access: Access = NO_CONTROL) -> None:
        self._database = database
        self._access = access

    def write(self, records: Sequence[Record]) -> Written:
        return self._database.write(store.write_records, records)

    def records(self, task_ids: Sequence[str]) -> list[Record]:
        return self._database.read_in_transaction(store.read_records, task_ids)

    def pause(self, states: Sequence[tuple[str, datetime]]) -> int:
        if not states:
            return 0
        self._access.require("pause_queue")
        return self._database.write(store.add_paused, states)

    def tell(self) -> None:
        self._database.wakeups.notify_all()


class VerbSource(Source):
    """A backend of somebody's own, by the documented verbs. The ids of all tasks are held in memory."""

    def __init__(self, backend: BaseBackend) -> None:
        self._backend = backend
        self._ids: list[str] = []

    def count(self) -> int:
        self._ids = sorted(self._backend.list_all_tasks())
        return len(self._ids)

    def first_running(self) -> str | None:
        tasks = map(self._backend.get_task, self._backend.list_all_tasks())
        return next((task.id for task in tasks if task is not None and task.status == TaskStatus.RUNNING), None)

    def page(self, after: str | None, limit: int) -> list[Record]:
        start = 0 if after is None else bisect_right(self._ids, after)
        while start < len(self._ids):  # until a page has a record: tasks may have been deleted meanwhile
            if page := self.records(self._ids[start : start + limit]):
                return page
            start += limit
        return []

    def records(self, task_ids: Sequence[str]) -> list[Record]:
        return records_by_verbs(self._backend, task_ids)

    def paused(self) -> list[tuple[str, datetime]]:
        return [(queue, self._backend.now()) for queue in self._backend.paused_queues()]

    def has_lapsed(self, record: Record) -> bool:
        return record.lease_until is not None and record.lease_until <= self._backend.now()


class VerbTarget(Target):
    """A backend of somebody's own, by the documented verbs: each task, then its result."""

    def __init__(self, backend: BaseBackend) -> None:
        self._backend = backend

    def write(self, records: Sequence[Record]) -> Written:
        present = {found.id: found for found in self.records([record.id for record in records])}
        planned = plan(records, present)
        for record in (*planned.new, *(changed for changed, _ in planned.changed)):
            self._backend.store_task(task_of(record))
            if (result := result_of(record)) is not None:
                self._backend.store_result(record.id, result)
        return Written(planned, [])

    def records(self, task_ids: Sequence[str]) -> list[Record]:
        return records_by_verbs(self._backend, task_ids)

    def pause(self, states: Sequence[tuple[str, datetime]]) -> int:
        known = self._backend.paused_queues()
        new = [queue for queue, _ in states if queue not in known]
        for queue in new:
            self._backend.pause_queue(queue)
        return len(new)

    def tell(self) -> None:
        self._backend.wakeups.notify_all()


def records_by_verbs(backend: BaseBackend, task_ids: Sequence[str]) -> list[Record]:
    """The records of these tasks, one verb after the other."""
    records = []
    for task_id in task_ids:
        task = backend.get_task(task_id)
        if task is not None:
            result = backend.get_result(task_id) if backend.has_result(task_id) else None
            records.append(record_of(task, result))
    return records


def source_of(backend: BaseBackend) -> Source:
    """What reads a backend."""
    if isinstance(backend, SQLAlchemyBackend):
        backend.access.require("list_tasks")
        return DatabaseSource(backend._database)
    return VerbSource(backend)


def target_of(backend: BaseBackend) -> Target:
    """What writes to a backend."""
    if isinstance(backend, SQLAlchemyBackend):
        backend.access.require("store_task")
        return DatabaseTarget(backend._database, backend.access)
    return VerbTarget(backend)
