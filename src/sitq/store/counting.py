"""How many tasks there are."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, bindparam, case, func, literal_column, select, true, union_all

from ..columns import UTCDateTime
from ..models import Models
from ..stats import TaskGroup
from .door import Door
from .tables import QUEUED, is_due, is_running, is_scheduled

ZERO: ColumnElement[Any] = literal_column("0")
NULL: ColumnElement[Any] = literal_column("NULL")


def count_tasks(session: Door, models: Models, now: datetime) -> list[TaskGroup]:
    """The tasks by queue and status, in one statement and hence of one moment.

    Each index counts its own. Rows that are in none, or in two, because somebody wrote them by hand, show in
    the number of all rows: then every task is looked at.
    """
    *groups, total = session.execute(count_by_indexes(models), {"now": now})
    if sum(group.tasks for group in groups) != total.tasks:
        groups = list(session.execute(count_by_rows(models), {"now": now}))
    return [TaskGroup(*group) for group in groups]


@lru_cache
def count_by_indexes(models: Models) -> Any:
    """What ``count_by_rows`` selects, and last a row with the number of all tasks."""
    task = models.task
    queued = select(task.queue, QUEUED.label("status"), *waiting(models, true()))
    others = select(task.queue, task.status, func.count(), ZERO, ZERO, NULL).group_by(task.queue, task.status)
    return union_all(
        *(queued.where(some(task)).group_by(task.queue) for some in (is_due, is_scheduled)),
        others.where(is_running(task)),
        others.where(task.completed_at.is_not(None)),
        select(NULL, NULL, func.count(), ZERO, ZERO, NULL).select_from(task),
    )


@lru_cache
def count_by_rows(models: Models) -> Any:
    """The groups, by looking at every task."""
    queue, status = models.task.queue, func.coalesce(models.task.status, QUEUED)
    return select(queue, status.label("status"), *waiting(models, status == QUEUED)).group_by(queue, status)


def waiting(models: Models, waits: ColumnElement[bool]) -> list[ColumnElement[Any]]:
    """How many tasks; of those that wait, how many are not due, how many were tried, and the first due time."""
    task, now = models.task, bindparam("now", type_=UTCDateTime())
    due = waits & (task.due_at.is_(None) | (task.due_at <= now))
    return [
        func.count().label("tasks"),
        func.count(case((waits & (task.due_at > now), 1))),
        func.count(case((waits & (task.retry_count > 0), 1))),
        func.min(case((due, func.coalesce(task.due_at, task.created_at)))),
    ]


def oldest_due_at(session: Door, models: Models) -> datetime | None:
    """Since when the first enqueued of the tasks that wait and are due has been due; an index alone finds it."""
    task = models.task
    first: str | None = session.execute(select(func.min(task.id)).where(is_due(task))).scalar()
    if first is None:
        return None
    return session.execute(select(func.coalesce(task.due_at, task.created_at)).where(task.id == first)).scalar()
