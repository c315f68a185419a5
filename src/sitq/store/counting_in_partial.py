"""How many tasks there are, where indexes hold some of them each: SQLite and PostgreSQL."""

from __future__ import annotations

import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, case, cast, func, literal_column, null, select, union_all
from sqlalchemy.orm import aliased

from ..columns import Moment
from ..models import Models, TaskMixin
from ..stats import TaskGroup
from .counting_by_rows import count_by_rows
from .door import Door
from .tables import (
    FALSE,
    QUEUED,
    RUNNING,
    TRUE,
    asked_at,
    count_where,
    is_due,
    is_over,
    is_running,
    is_scheduled,
    is_timed,
)

ZERO: ColumnElement[Any] = literal_column("0")
NO_TIME = cast(null(), Moment)

UNTOLD, BY_HAND = 1, 2
"""What may be in doubt about a group: since when its oldest is due; and how its tasks count, which are in two indexes
or in another one than their status says."""


def count_in_partial_indexes(session: Door, models: Models, now: datetime) -> list[TaskGroup]:
    """The tasks by queue and status, in one statement but for a time that is ``sought``.

    Each index counts its own. Where a row that somebody wrote by hand is in two, or in another one than its status
    says, every task is looked at.
    """
    counted = [(TaskGroup(*group), doubt) for *group, doubt in session.execute(count_by_indexes(models), {"now": now})]
    if any(doubt == BY_HAND for _, doubt in counted):
        return count_by_rows(session, models, now)
    return [sought(session, models, group) if doubt == UNTOLD else group for group, doubt in counted]


def sought(session: Door, models: Models, group: TaskGroup) -> TaskGroup:
    """The group with the time of its oldest of those without a time of their own, for which rows are looked at."""
    task = models.task
    without = select(func.min(task.created_at)).where(is_due(task), task.queue == group.queue, task.due_at.is_(None))
    return group._replace(oldest_due_at=session.execute(without).scalar())


@lru_cache
def count_by_indexes(models: Models) -> Any:
    """Groups of tasks, several for a queue and a status, each with what is in doubt about it."""
    return union_all(
        running(models),
        over(models),
        due(models),
        released(models),
        scheduled(models),
        overdue(models),
        timeless(models),
    )


def running(models: Models) -> Select[Any]:
    """Those in a worker's hands."""
    return by_status(models.task, is_running(models.task), ZERO)


def over(models: Models) -> Select[Any]:
    """Those that neither wait nor run; and some that do by their status, but that somebody wrote by hand."""
    task = models.task
    doubt = case((func.coalesce(task.status, QUEUED).in_([QUEUED, RUNNING]), literal_column(str(BY_HAND))), else_=ZERO)
    return by_status(task, is_over(task), doubt)


def by_status(task: type[TaskMixin], condition: ColumnElement[bool], doubt: ColumnElement[Any]) -> Select[Any]:
    """Tasks that do not wait, by their queue and status."""
    rows = select(task.queue, task.status, func.count(), ZERO, ZERO, NO_TIME, doubt)
    return rows.where(condition).group_by(task.queue, task.status)


def due(models: Models) -> Select[Any]:
    """Those in the claim's index; the oldest is the first enqueued of them, unless that one has a time of its own."""
    task, first = models.task, aliased(models.task)
    counted = select(task.queue, func.count().label("tasks"), func.min(task.id).label("first_id"))
    groups = counted.where(is_due(task)).group_by(task.queue).subquery()
    since = case((first.due_at.is_(None), first.created_at))
    is_untold = first.due_at.is_not(None) | first.created_at.is_(None)
    doubt = case((is_untold, literal_column(str(UNTOLD))), else_=ZERO)
    rows = groups.outerjoin(first, first.id == groups.c.first_id)
    return select(groups.c.queue, QUEUED, groups.c.tasks, ZERO, ZERO, since, doubt).select_from(rows)


def released(models: Models) -> Select[Any]:
    """What ``due`` cannot tell of those that have a time or were tried before."""
    task = models.task
    to_come, past = count_where(task.due_at > asked_at()), func.min(case((task.due_at <= asked_at(), task.due_at)))
    rows = select(task.queue, QUEUED, ZERO, to_come, retrying(task), past, ZERO)
    return rows.where(is_timed(task), task.scheduled == FALSE).group_by(task.retry_count, task.queue)


def scheduled(models: Models) -> Select[Any]:
    """Those that wait for their time, as if it were to come for all of them."""
    task = models.task
    rows = select(task.queue, QUEUED, func.count(), func.count(), retrying(task), NO_TIME, ZERO)
    return rows.where(is_timed(task), task.scheduled == TRUE).group_by(task.retry_count, task.queue)


def overdue(models: Models) -> Select[Any]:
    """Those of them whose time has come, few as a rule; by their order they are found in the index of times."""
    task = models.task
    few = select(task.queue, task.due_at).where(is_scheduled(task), task.due_at <= asked_at()).order_by(task.due_at)
    some = few.limit(literal_column(str(sys.maxsize))).subquery()  # without a limit the order counts for nothing
    rows = select(some.c.queue, QUEUED, ZERO, -func.count(), ZERO, func.min(some.c.due_at), ZERO)
    return rows.group_by(some.c.queue)


def timeless(models: Models) -> Select[Any]:
    """Those that somebody wrote by hand without a time: ``scheduled`` has counted the ones that were tried before."""
    task = models.task
    untried = count_where(func.coalesce(task.retry_count, 0) <= 0)
    rows = select(task.queue, QUEUED, untried, untried - func.count(), ZERO, func.min(task.created_at), ZERO)
    return rows.where(is_scheduled(task), task.due_at.is_(None)).group_by(task.queue)


def retrying(task: type[TaskMixin]) -> ColumnElement[int]:
    """How many of a group have been tried before: all or none, since they are grouped so, as their index is."""
    return case((task.retry_count > literal_column("0"), func.count()), else_=ZERO)
