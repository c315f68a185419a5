"""A task with its result as one record: how far it is in its life, and what it is on every database.

Plain tuples, no database: what the copy job reads, compares and writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from operator import itemgetter
from typing import Any, NamedTuple

from .models import Result, Task, TaskStatus

TASK_COLUMNS: tuple[str, ...] = tuple(Task.__table__.columns.keys())
RESULT_COLUMNS: tuple[str, ...] = tuple(Result.__table__.columns.keys())

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

PHASES: dict[str | None, int] = {None: 0, TaskStatus.QUEUED.value: 0, TaskStatus.RUNNING.value: 1}
"""While a task waits, and while it runs; any other status has ended it."""

GIVEN_UP: dict[str, Any] = {
    "status": TaskStatus.QUEUED.value,
    "scheduled": False,
    "worker_id": None,
    "lease_until": None,
}
"""What a running task becomes when nobody is to hold it any more."""


class Stage(NamedTuple):
    """How far a task is in its life: the greater, the further.

    Each claim leads further than all that was before it. Between two claims attempts are counted, and last
    comes the phase: 0 while it waits, 1 while it runs, 2 when it has ended.
    """

    claims: int
    attempts: int
    phase: int


def stage_of(status: str | None, claim_count: int | None, retry_count: int | None, crash_count: int | None) -> Stage:
    """How far a task with these columns is in its life.

    An ended task that an operator has put back waits in an earlier stage until it is claimed: nothing in its
    row tells it from one that has not ended yet.
    """
    return Stage(claim_count or 0, (retry_count or 0) + (crash_count or 0), PHASES.get(status, 2))


class Record(NamedTuple):
    """The values of ``TASK_COLUMNS``, and those of ``RESULT_COLUMNS`` if the task has a result."""

    task: tuple[Any, ...]
    result: tuple[Any, ...] | None

    def __repr__(self) -> str:
        return f"Record(id={self.id!r}, status={self.task[_STATUS]!r})"

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.task[_ID])

    @property
    def unique_key(self) -> str | None:
        """The key that the task holds."""
        key: str | None = self.task[_UNIQUE_KEY]
        return key

    @property
    def stage(self) -> Stage:
        """How far the task is in its life."""
        return stage_of(*(self.task[place] for place in _STAGE))

    @property
    def is_running(self) -> bool:
        """Whether a worker has the task in its hands, or had when it died."""
        return bool(self.task[_STATUS] == TaskStatus.RUNNING)

    @property
    def lease_until(self) -> datetime | None:
        """Until when it is the worker's."""
        until: datetime | None = self.task[_LEASE]
        return until

    @property
    def size(self) -> int:
        """About how many bytes its payloads and texts take."""
        large = _large_in_task(self.task) + (_large_in_result(self.result) if self.result else ())
        return sum(map(len, filter(None, large)))

    def given_up(self) -> Record:
        """The record of a running task, with nobody holding it."""
        values = dict(zip(TASK_COLUMNS, self.task, strict=True)) | GIVEN_UP
        return Record(tuple(values.values()), None)

    def canonical(self) -> tuple[Any, ...]:
        """What is the same for the same record on every database: times are microseconds since 1970, in UTC.

        ``scheduled`` is left out, since the first claim that finds the task due changes it.
        """
        task = list(self.task)
        task[_SCHEDULED] = None
        for place in _TIMES_OF_TASK:
            task[place] = microseconds(task[place])
        if self.result is None:
            return (*task, None)
        result = list(self.result)
        result[_RESULT_TIME] = microseconds(result[_RESULT_TIME])
        return (*task, *result)

    def checksum(self) -> int:
        """A number of 128 bits that stands for the canonical values; those of many records may be added up."""
        written = repr(self.canonical()).encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(written, digest_size=16).digest(), "big")


def places(names: Iterable[str], columns: tuple[str, ...] = TASK_COLUMNS) -> tuple[int, ...]:
    """Where in a record these columns stand."""
    return tuple(columns.index(name) for name in names)


_ID, _STATUS, _UNIQUE_KEY, _LEASE, _SCHEDULED = places(("id", "status", "unique_key", "lease_until", "scheduled"))
_STAGE = places(("status", "claim_count", "retry_count", "crash_count"))
_TIMES_OF_TASK = places(("created_at", "started_at", "completed_at", "due_at", "expires_at", "lease_until"))
_large_in_task = itemgetter(*places(("function", "args", "kwargs", "options", "errors", "error_message")))
(_RESULT_TIME,) = places(("completed_at",), RESULT_COLUMNS)
_large_in_result = itemgetter(*places(("value", "error_message", "traceback"), RESULT_COLUMNS))


def microseconds(moment: datetime | None) -> int | None:
    """A moment as microseconds since 1970."""
    return None if moment is None else (moment - EPOCH) // MICROSECOND


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of records that meet those of a target: each is in one of the four.

    Attributes:
        new: the target has no task of this id.
        changed: the target's is not as far, or as far and different; what it is now.
        same: nothing is to be done.
        kept: the target's is further in its life.
    """

    new: list[Record]
    changed: list[tuple[Record, Record]]
    same: list[Record]
    kept: list[Record]

    def joined(self, other: Plan) -> Plan:
        """Both plans as one."""
        return Plan(self.new + other.new, self.changed + other.changed, self.same + other.same, self.kept + other.kept)


def plan(records: Iterable[Record], present: dict[str, Record]) -> Plan:
    """Decide for each record what is to become of it; ``present`` holds what the target has, by id."""
    planned = Plan([], [], [], [])
    for record in records:
        found = present.get(record.id)
        if found is None:
            planned.new.append(record)
        elif found.canonical() == record.canonical():
            planned.same.append(record)
        elif found.stage > record.stage:
            planned.kept.append(record)
        else:
            planned.changed.append((record, found))
    return planned


# Between records and the models as plain records, which stranger's backends give and take.


def record_of(task: Task, result: Result | None) -> Record:
    """The record of a task and its result."""
    return Record(plain_values(task, TASK_COLUMNS), None if result is None else plain_values(result, RESULT_COLUMNS))


def plain_values(row: Task | Result, columns: tuple[str, ...]) -> tuple[Any, ...]:
    """The values of the columns, each of its column's type: a storage may give back others that are equal."""
    return tuple(plain(getattr(row, name), row.__table__.c[name].type.python_type) for name in columns)


def plain(value: Any, kind: type[Any]) -> Any:
    """The value as its column's type; a moment without a time zone is UTC."""
    if value is None:
        return None
    if kind is datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return kind(value)


def task_of(record: Record) -> Task:
    """The task of a record."""
    return Task(**dict(zip(TASK_COLUMNS, record.task, strict=True)))


def result_of(record: Record) -> Result | None:
    """The result of a record."""
    return None if record.result is None else Result(**dict(zip(RESULT_COLUMNS, record.result, strict=True)))
