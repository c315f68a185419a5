"""How many tasks there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.orm import aliased

from ..columns import Moment, UTCDateTime
from ..models import Models, TaskMixin
from ..stats import TaskGroup
from .door import Door
from .tables import FALSE, QUEUED, TRUE, is_due, is_running, is_timed

Some: TypeAlias = Callable[[type[TaskMixin]], ColumnElement[bool]]

ZERO: ColumnElement[Any] = literal_column("0")
NULL: ColumnElement[Any] = literal_column("NULL")
NO_TIME = cast(null(), Moment)

MOST_QUEUES = 100
"""Where more queues have waiting tasks, these are counted by looking at each of them."""


class Counted(NamedTuple):
    """A row of ``count_by_indexes``: a group, and whether its oldest is to be sought among those without a time."""

    queue: str
    status: str
    tasks: int
    scheduled: int
    retrying: int
    oldest_due_at: datetime | None
    is_to_seek: int


def count_tasks(session: Door, models: Models, now: datetime) -> list[TaskGroup]:
    """The tasks by queue and status, in one statement and hence of one moment.

    Each index counts its own, and no row is looked at. Rows that are in none, or in two, because somebody wrote them
    by hand, show in the number of all rows: then every task is looked at.
    """
    queues = session.execute(waiting_queues(models)).scalars().all()
    if len(queues) <= MOST_QUEUES:
        named = {f"queue_{number}": queue for number, queue in enumerate(queues)}
        rows = session.execute(count_by_indexes(models, len(queues)), {"now": now, **named})
        *groups, total = [Counted(*row) for row in rows]
        if sum(group.tasks for group in groups) == total.tasks:
            return [TaskGroup(*sought(session, models, group)[:-1]) for group in groups]
    return [TaskGroup(*row) for row in session.execute(count_by_rows(models), {"now": now})]


def sought(session: Door, models: Models, group: Counted) -> Counted:
    """The group with the time of its oldest, for which rows are looked at where the first enqueued task has a time."""
    if not group.is_to_seek:
        return group
    task = models.task
    without = select(func.min(task.created_at)).where(is_due(task), task.queue == group.queue, task.due_at.is_(None))
    times = (group.oldest_due_at, session.execute(without).scalar())
    return group._replace(oldest_due_at=min((each for each in times if each is not None), default=None))


@lru_cache
def waiting_queues(models: Models) -> Any:
    """The queues that have waiting tasks, by one seek for each; at most one more than ``MOST_QUEUES``."""
    task = models.task
    due = queues_of(models, is_due, {task.status: QUEUED, task.scheduled: FALSE})
    timed = queues_of(models, is_timed, {task.status: QUEUED})
    return due.union(timed).limit(MOST_QUEUES + 1)


def queues_of(models: Models, some: Some, leading: Mapping[Any, ColumnElement[Any]]) -> Select[Any]:
    """The queues of some of the tasks, one after another: the first, and from each the next.

    ``leading`` are the columns before the queue in their index. PostgreSQL leaves them out of the comparison where the
    index implies them, and would read all of it.
    """
    task = models.task
    queues = (
        select(func.min(task.queue).label("queue")).where(some(task)).cte(f"{some.__name__}_queues", recursive=True)
    )
    after = tuple_(*leading, task.queue) > tuple_(*leading.values(), queues.c.queue)
    following = select(func.min(task.queue)).where(some(task), task.queue > queues.c.queue, after).scalar_subquery()
    queues = queues.union_all(select(following).where(queues.c.queue.is_not(None)))
    return select(queues.c.queue).where(queues.c.queue.is_not(None))


@lru_cache
def count_by_indexes(models: Models, queues: int) -> Any:
    """Groups of tasks as ``Counted``, and last a row with the number of all tasks."""
    task = models.task
    others = select(task.queue, task.status, func.count(), ZERO, ZERO, NO_TIME, ZERO).group_by(task.queue, task.status)
    return union_all(
        others.where(is_running(task)),
        others.where(task.completed_at.is_not(None)),
        *(part for number in range(queues) for part in waiting_in(models, bindparam(f"queue_{number}", type_=Text()))),
        select(NULL, NULL, func.count(), ZERO, ZERO, NO_TIME, ZERO).select_from(task),
    )


def waiting_in(models: Models, queue: ColumnElement[Any]) -> list[Select[Any]]:
    """The tasks of a queue that wait: all that are due; of those the ones with a time, counted above; future ones."""
    return [due_in(models, queue), released_in(models, queue), scheduled_in(models, queue)]


def due_in(models: Models, queue: ColumnElement[Any]) -> Select[Any]:
    """Those in the claim's index; the oldest is the first enqueued of them, unless that one has a time of its own."""
    task, first = models.task, aliased(models.task)
    due = select(func.count().label("tasks"), func.min(task.id).label("first_id"))
    counted = due.where(is_due(task), task.queue == queue).subquery()
    since = case((first.due_at.is_(None), first.created_at))
    timed = case((first.due_at.is_not(None), 1), else_=0)
    rows = counted.outerjoin(first, first.id == counted.c.first_id)
    return select(queue, QUEUED, counted.c.tasks, ZERO, ZERO, since, timed).select_from(rows)


def released_in(models: Models, queue: ColumnElement[Any]) -> Select[Any]:
    """What ``due_in`` cannot tell of those that have a time or were tried before."""
    task = models.task
    now = bindparam("now", type_=UTCDateTime())
    to_come, past = count_where(task.due_at > now), func.min(case((task.due_at <= now, task.due_at)))
    rows = select(queue, QUEUED, ZERO, to_come, retrying(task), past, ZERO)
    return rows.where(is_timed(task), task.queue == queue, task.scheduled == FALSE)


def scheduled_in(models: Models, queue: ColumnElement[Any]) -> Select[Any]:
    """Those that wait for their time; nearly all of them are still to come, so those that are not are counted."""
    task = models.task
    here = and_(is_timed(task), task.queue == queue, task.scheduled == TRUE)
    every = select(func.count().label("tasks"), retrying(task).label("retrying")).where(here).subquery()
    past = select(func.count().label("tasks"), func.min(task.due_at).label("first"))
    overdue = past.where(here, task.due_at <= bindparam("now", type_=UTCDateTime())).subquery()
    to_come = every.c.tasks - overdue.c.tasks
    rows = every.join(overdue, literal_column("1") == literal_column("1"))
    return select(queue, QUEUED, every.c.tasks, to_come, every.c.retrying, overdue.c.first, ZERO).select_from(rows)


def retrying(task: type[TaskMixin]) -> ColumnElement[int]:
    """How many have been tried before."""
    return count_where(task.retry_count > 0)


def count_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """In how many rows something holds."""
    return func.count(case((condition, 1)))


@lru_cache
def count_by_rows(models: Models) -> Any:
    """The groups, by looking at every task."""
    task, now = models.task, bindparam("now", type_=UTCDateTime())
    status = func.coalesce(task.status, QUEUED)
    waits = status == QUEUED
    due = waits & (task.due_at.is_(None) | (task.due_at <= now))
    return select(
        task.queue,
        status.label("status"),
        func.count().label("tasks"),
        count_where(waits & (task.due_at > now)),
        count_where(waits & (task.retry_count > 0)),
        func.min(case((due, func.coalesce(task.due_at, task.created_at)))),
    ).group_by(task.queue, status)


def oldest_due_at(session: Door, models: Models) -> datetime | None:
    """Since when the first enqueued of the tasks that wait and are due has been due; an index alone finds it."""
    task = models.task
    first: str | None = session.execute(select(func.min(task.id)).where(is_due(task))).scalar()
    if first is None:
        return None
    return session.execute(select(func.coalesce(task.due_at, task.created_at)).where(task.id == first)).scalar()
