"""How many tasks there are, where each index holds all of them: MariaDB and MySQL.

An index that begins with what a task counts as tells which kinds of tasks there are, how many of each, and by seeks
since when the oldest of a kind has been due. If most tasks are of one kind, they need not be looked at: that kind has
what the others leave of a bare ``count(*)``, at which servers are fastest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    cast,
    func,
    inspect,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.types import TypeEngine

from ..columns import Moment
from ..models import StoreModels, TaskMixin, TaskStatus
from ..stats import TaskGroup
from .compiled import compiled_for
from .counting_by_rows import count_by_rows
from .door import Door, connection_of
from .tables import asked_at, index_of, table_of, using_index

INDEX_OF_KINDS = "timed"
"""The index that begins with the columns of ``Kind``; the times follow."""

MOST_KINDS = 50
"""How many kinds are counted so: each is looked for by itself."""

TRIES = 3
"""How often tasks are counted of which some are of a kind that was not there just before."""

COMMONNESS = 2
"""How many times as many as all others together the tasks of a kind must seem to be to be left out.

To look at an entry in ranges was measured to cost MariaDB three times as much as a bare ``count(*)``, and twice as much
as without ranges. It never estimates that a kind has more than half of all tasks.
"""


ONE: ColumnElement[Any] = literal_column("1")
NO_TIME = cast(null(), Moment)

ALL = -1
"""The number of all tasks, in place of that of a kind."""


class Kind(NamedTuple):
    """What a task counts as."""

    status: str
    scheduled: int
    retry_count: int
    queue: str

    @property
    def is_regular(self) -> bool:
        """Whether it is none that somebody wrote by hand."""
        return self.status is not None and self.scheduled in (0, 1) and self.retry_count is not None

    @property
    def waits(self) -> bool:
        """Whether its tasks wait for a worker, or for their time."""
        return self.status == TaskStatus.QUEUED


class Times(NamedTuple):
    """What was found of the tasks of a kind that wait.

    ``out_of_place`` are due before their time, or still scheduled though their time has come or was never told.
    """

    out_of_place: int
    first_due_at: datetime | None
    first_created_at: datetime | None


def count_in_whole_indexes(session: Door, models: StoreModels, now: datetime) -> list[TaskGroup] | None:
    """The tasks by queue and status. ``None`` where there are too many kinds, or new ones again and again, or no index.

    Where somebody wrote a task by hand that is of none, every task is looked at.
    """
    if not has_index_of_kinds(session, models):
        return None
    for _ in range(TRIES):
        kinds = every_kind(session, models)
        if not all(kind.is_regular for kind in kinds):
            return count_by_rows(session, models, now)
        if len(kinds) > MOST_KINDS:
            return None
        counted, times = count_kinds(session, models, now, kinds)
        if counted.keys() <= set(kinds):  # else there is another one by now, or a queue has two spellings
            return [group_of(kind, tasks, times.get(kind)) for kind, tasks in counted.items() if tasks]
    return None


def has_index_of_kinds(session: Door, models: StoreModels) -> bool:
    """Whether there is an index as this version wants it: an older schema is served too."""
    connection, table = connection_of(session), table_of(models.task)
    schemas = connection.get_execution_options().get("schema_translate_map") or {}
    wanted = next(index for index in table.indexes if index.name == index_of(models, INDEX_OF_KINDS))
    found = inspect(connection).get_indexes(table.name, schema=schemas.get(table.schema, table.schema))
    columns = [column.name for column in wanted.columns]
    return any(index["name"] == wanted.name and index["column_names"] == columns for index in found)


def every_kind(session: Door, models: StoreModels) -> list[Kind]:
    """The kinds that there are; no more than one too many, and none after one that is not regular."""
    kinds: list[Kind] = []
    found = session.execute(first_kind(models)).first()
    while found is not None:
        kinds.append(Kind(*found))
        if len(kinds) > MOST_KINDS or not kinds[-1].is_regular:
            break
        found = session.execute(next_kind(models), kinds[-1]._asdict()).first()
    return kinds


def count_kinds(
    session: Door, models: StoreModels, now: datetime, kinds: list[Kind]
) -> tuple[dict[Kind, int], dict[Kind, Times]]:
    """How many tasks there are of each kind, and of those that wait the times: in one statement, so of one moment."""
    commonest, waiting = commonest_kind(session, models, kinds), [kind for kind in kinds if kind.waits]
    values: dict[str, Any] = {"now": now} if commonest is None else {"now": now, **commonest._asdict()}
    for number, kind in enumerate(waiting):
        values |= {f"{name}_{number}": value for name, value in kind._asdict().items()}
    statement = count_by_kinds(models, commonest is not None, tuple(bool(kind.scheduled) for kind in waiting))
    counted: dict[Kind, int] = {}
    times: dict[Kind, Times] = {}
    every = 0
    for number, *columns, tasks, first_due_at, first_created_at in session.execute(statement, values):
        if number is None:
            counted[Kind(*columns)] = tasks
        elif number == ALL:
            every = tasks
        else:
            times[waiting[number]] = Times(tasks, first_due_at, first_created_at)
    if commonest is not None:
        counted[commonest] = every - sum(counted.values())
    return counted, times


def commonest_kind(session: Door, models: StoreModels, kinds: list[Kind]) -> Kind | None:
    """The kind that by the server's estimates has many more tasks than all others together."""
    estimates = {kind: estimate(session, models, kind) for kind in kinds}
    commonest = max(kinds, key=estimates.__getitem__, default=None)
    if commonest is None or estimates[commonest] <= COMMONNESS * (sum(estimates.values()) - estimates[commonest]):
        return None
    return commonest


def estimate(session: Door, models: StoreModels, kind: Kind) -> int:
    """How many tasks of a kind there are, as the server estimates by two looks at the index."""
    connection = connection_of(session)
    compiled = compiled_for(connection, tasks_of_kind(models))
    plan = connection.exec_driver_sql(f"EXPLAIN FORMAT=TRADITIONAL {compiled.text}", compiled.values(kind._asdict()))
    return int(plan.mappings().one()["rows"] or 0)  # MariaDB gives text


def group_of(kind: Kind, tasks: int, times: Times | None) -> TaskGroup:
    """So many tasks of a kind; if they wait, for how many the time is to come, and since when the oldest is due."""
    if times is None:
        return TaskGroup(kind.queue, kind.status, tasks, 0, 0, None)
    oldest = min((time for time in (times.first_due_at, times.first_created_at) if time is not None), default=None)
    to_come = tasks - times.out_of_place if kind.scheduled else times.out_of_place
    return TaskGroup(kind.queue, kind.status, tasks, to_come, tasks if kind.retry_count > 0 else 0, oldest)


# The statements. Those who do not name their index might be given another one by statistics that are out of date.


def in_index(models: StoreModels, question: Select[Any]) -> Select[Any]:
    """The question, to be answered from the index of kinds."""
    return using_index(models, question, INDEX_OF_KINDS)


def columns_of_kind(task: type[TaskMixin]) -> tuple[Any, ...]:
    """The columns of ``Kind``, ``scheduled`` as the number that the server has."""
    return task.status, type_coerce(task.scheduled, Integer), task.retry_count, task.queue


def bound_kind(suffix: str = "") -> tuple[ColumnElement[Any], ...]:
    """The values of a kind, by the names of its fields and what may follow them."""
    types: tuple[TypeEngine[Any], ...] = (String(), Integer(), Integer(), String())
    return tuple(bindparam(name + suffix, type_=type_) for name, type_ in zip(Kind._fields, types, strict=True))


def is_of_kind(task: type[TaskMixin], suffix: str = "") -> ColumnElement[bool]:
    """The tasks of a kind whose values are bound."""
    return and_(*(column == value for column, value in zip(columns_of_kind(task), bound_kind(suffix), strict=True)))


def is_beyond(task: type[TaskMixin], differs: Callable[[Any, Any], Any]) -> ColumnElement[bool]:
    """The tasks of kinds that differ so from the one that is bound.

    They are ranges of the index: where the first column differs; where that is the same and the second does; and so on.
    """
    ranges: list[ColumnElement[bool]] = []
    same: list[ColumnElement[bool]] = []
    for column, value in zip(columns_of_kind(task), bound_kind(), strict=True):
        ranges.append(and_(*same, differs(column, value)))
        same.append(column == value)
    return or_(*ranges)


@lru_cache
def first_kind(models: StoreModels) -> Select[Any]:
    """The first kind in the index."""
    columns = columns_of_kind(models.task)
    return in_index(models, select(*columns)).order_by(*columns).limit(ONE)


@lru_cache
def next_kind(models: StoreModels) -> Select[Any]:
    """The first kind after the one that is bound. A ``DISTINCT`` is skipped through only if statistics are good."""
    return first_kind(models).where(is_beyond(models.task, operator.gt))


@lru_cache
def tasks_of_kind(models: StoreModels) -> Select[Any]:
    """The tasks of a kind."""
    return in_index(models, select(models.task.id)).where(is_of_kind(models.task))


@lru_cache
def count_by_kinds(models: StoreModels, but_one: bool, waiting: tuple[bool, ...]) -> Any:
    """How many tasks there are of each kind, and the times of kinds that wait, scheduled or not, by their numbers.

    ``but_one`` leaves out the kind that is bound, and counts all tasks as ``ALL``.
    """
    task, columns = models.task, columns_of_kind(models.task)
    parts = [in_index(models, select(null(), *columns, func.count(), NO_TIME, NO_TIME)).group_by(*columns)]
    if but_one:
        parts = [parts[0].where(is_beyond(task, operator.ne)), numbered(ALL, func.count()).select_from(task)]
    parts += [times_of_kind(models, number, scheduled) for number, scheduled in enumerate(waiting)]
    return union_all(*parts)


def numbered(number: int, tasks: ColumnElement[int], *times: ColumnElement[Any]) -> Select[Any]:
    """A row that tells its kind by a number, and not by its columns."""
    columns: list[ColumnElement[Any]] = [literal_column(str(number)), *(null() for _ in Kind._fields), tasks]
    return select(*columns, *(times or (NO_TIME, NO_TIME)))


def times_of_kind(models: StoreModels, number: int, scheduled: bool) -> Select[Any]:
    """The ``Times`` of a kind that is bound with its number."""
    task, suffix = models.task, f"_{number}"

    def among(of_kind: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
        return in_index(models, select(of_kind)).where(is_of_kind(task, suffix), *conditions)

    def how_many(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return among(func.count(), condition).scalar_subquery()

    has_come, is_untold = task.due_at <= asked_at(), task.due_at.is_(None)
    out_of_place = how_many(has_come) + how_many(is_untold) if scheduled else how_many(task.due_at > asked_at())
    first_due = among(task.due_at, has_come).order_by(task.due_at)
    first_created = among(task.created_at, is_untold, task.created_at.is_not(None)).order_by(task.created_at)
    return numbered(number, out_of_place, *(each.limit(ONE).scalar_subquery() for each in (first_due, first_created)))
