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
    func,
    inspect,
    literal_column,
    or_,
    select,
    text,
    type_coerce,
)
from sqlalchemy.types import TypeEngine

from ..models import StoreModels, TaskMixin, TaskStatus
from ..stats import TaskGroup
from .compiled import compiled_for
from .counting_by_rows import count_by_rows
from .door import Door, connection_of
from .tables import asked_at, table_of

OF_ONE_MOMENT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
"""What makes all statements of the transaction that it precedes see the same rows."""

MOST_KINDS = 50
"""How many kinds are counted so: two questions are asked about each."""

COMMONNESS = 2.5
"""How many times as many as all others together the tasks of a kind must seem to be to be left out.

To look at an entry in ranges costs the server three times as much as a bare ``count(*)`` does, and twice as much as
without ranges. It never estimates that a kind has more than half of all tasks.
"""


ONE: ColumnElement[Any] = literal_column("1")


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


def count_in_whole_indexes(session: Door, models: StoreModels, now: datetime) -> list[TaskGroup] | None:
    """The tasks by queue and status. ``None`` if there are too many kinds, or no index of kinds.

    Where somebody wrote a task by hand that is of none, every task is looked at. No statement may have preceded this in
    its transaction.
    """
    session.execute(OF_ONE_MOMENT)
    if not has_index_of_kinds(session, models):
        return None
    kinds = every_kind(session, models)
    if not all(kind.is_regular for kind in kinds):
        return count_by_rows(session, models, now)
    if len(kinds) > MOST_KINDS:
        return None
    return [group_of(session, models, now, kind, tasks) for kind, tasks in count_kinds(session, models, kinds).items()]


def has_index_of_kinds(session: Door, models: StoreModels) -> bool:
    """Whether there is an index as this version wants it: an older schema is served too."""
    connection, table = connection_of(session), table_of(models.task)
    schemas = connection.get_execution_options().get("schema_translate_map") or {}
    wanted = next(index for index in table.indexes if index.name == index_of_kinds(models))
    found = inspect(connection).get_indexes(table.name, schema=schemas.get(table.schema, table.schema))
    columns = [column.name for column in wanted.columns]
    return any(index["name"] == wanted.name and index["column_names"] == columns for index in found)


def index_of_kinds(models: StoreModels) -> str:
    """The name of the index that begins with the columns of ``Kind``, followed by the times."""
    return f"ix_{table_of(models.task).name}_timed"


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


def count_kinds(session: Door, models: StoreModels, kinds: list[Kind]) -> dict[Kind, int]:
    """How many tasks there are of each kind."""
    commonest = commonest_kind(session, models, kinds)
    if commonest is None:
        return {Kind(*kind): tasks for *kind, tasks in session.execute(tasks_by_kind(models))}
    others = session.execute(tasks_of_others(models), commonest._asdict())
    counted = {Kind(*kind): tasks for *kind, tasks in others}
    every: int = session.execute(select(func.count()).select_from(models.task)).scalar_one()
    return {**counted, commonest: every - sum(counted.values())}


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


def group_of(session: Door, models: StoreModels, now: datetime, kind: Kind, tasks: int) -> TaskGroup:
    """So many tasks of a kind, and if they wait, for how many the time is to come, and since when the oldest is due."""
    if kind.status != TaskStatus.QUEUED:
        return TaskGroup(kind.queue, kind.status, tasks, 0, 0, None)
    asked = times_of_scheduled if kind.scheduled else times_of_due
    not_so, first_due_at, first_created_at = session.execute(asked(models), {"now": now, **kind._asdict()}).one()
    oldest = min((each for each in (first_due_at, first_created_at) if each is not None), default=None)
    to_come = tasks - not_so if kind.scheduled else not_so
    return TaskGroup(kind.queue, kind.status, tasks, to_come, tasks if kind.retry_count > 0 else 0, oldest)


# The statements. Those who do not name their index might be given another one by statistics that are out of date.


def in_index(models: StoreModels, question: Select[Any]) -> Select[Any]:
    """The question, to be answered from the index of kinds."""
    assert models.index_hint is not None, "who needs all tasks in an index can be told which"
    return question.with_hint(models.task, models.index_hint.format(index_of_kinds(models)))


def columns_of_kind(task: type[TaskMixin]) -> tuple[Any, ...]:
    """The columns of ``Kind``, ``scheduled`` as the number that the server has."""
    return task.status, type_coerce(task.scheduled, Integer), task.retry_count, task.queue


def bound_kind() -> tuple[ColumnElement[Any], ...]:
    """The values of a kind."""
    types: tuple[TypeEngine[Any], ...] = (String(), Integer(), Integer(), String())
    return tuple(bindparam(name, type_=type_) for name, type_ in zip(Kind._fields, types, strict=True))


def is_of_kind(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The tasks of a kind whose values are bound."""
    return and_(*(column == value for column, value in zip(columns_of_kind(task), bound_kind(), strict=True)))


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
def tasks_by_kind(models: StoreModels) -> Select[Any]:
    """How many tasks there are of each kind."""
    columns = columns_of_kind(models.task)
    return in_index(models, select(*columns, func.count())).group_by(*columns)


@lru_cache
def tasks_of_others(models: StoreModels) -> Select[Any]:
    """How many there are of each kind but one."""
    return tasks_by_kind(models).where(is_beyond(models.task, operator.ne))


@lru_cache
def times_of_due(models: StoreModels) -> Select[Any]:
    """Of due tasks of a kind: how many came before their time, and the first times of the others."""
    return select(how_many(models, models.task.due_at > asked_at()), *first_times(models))


@lru_cache
def times_of_scheduled(models: StoreModels) -> Select[Any]:
    """Of scheduled tasks of a kind: for how many the time has come, or was never told, and the first times of these."""
    due_at = models.task.due_at
    return select(how_many(models, due_at <= asked_at()) + how_many(models, due_at.is_(None)), *first_times(models))


def how_many(models: StoreModels, condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Of how many tasks of a kind something holds."""
    return in_index(models, select(func.count())).where(is_of_kind(models.task), condition).scalar_subquery()


def first_times(models: StoreModels) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """The first time that has come of the tasks of a kind, and when the first without a time was enqueued."""
    due_at, created_at = models.task.due_at, models.task.created_at
    first_due = in_index(models, select(due_at)).where(is_of_kind(models.task), due_at <= asked_at())
    untimed = in_index(models, select(created_at)).where(is_of_kind(models.task), due_at.is_(None))
    first_created = untimed.where(created_at.is_not(None)).order_by(created_at)
    return first_due.order_by(due_at).limit(ONE).scalar_subquery(), first_created.limit(ONE).scalar_subquery()
