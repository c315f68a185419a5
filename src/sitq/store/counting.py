"""How many tasks there are."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import case, func, select

from ..models import Models, StoreModels
from ..stats import TaskGroup
from .counting_in_partial import count_in_partial_indexes
from .counting_in_whole import count_in_whole_indexes
from .counting_parts import asked_at, count_where
from .door import Door
from .tables import QUEUED, is_due


def count_tasks(session: Door, models: StoreModels, now: datetime) -> list[TaskGroup]:
    """The tasks by queue and status, of one moment; a queue and a status may come in several groups.

    Indexes count them. Where rows that somebody wrote by hand cannot be counted so, every task is looked at.
    """
    count = count_in_partial_indexes if models.index_hint is None else count_in_whole_indexes
    groups = count(session, models, now)
    if groups is None:
        return [TaskGroup(*row) for row in session.execute(count_by_rows(models), {"now": now})]
    return groups


@lru_cache
def count_by_rows(models: Models) -> Any:
    """The groups, by looking at every task."""
    task = models.task
    status = func.coalesce(task.status, QUEUED)
    waits = status == QUEUED
    is_past = waits & (task.due_at.is_(None) | (task.due_at <= asked_at()))
    return select(
        task.queue,
        status.label("status"),
        func.count().label("tasks"),
        count_where(waits & (task.due_at > asked_at())),
        count_where(waits & (task.retry_count > 0)),
        func.min(case((is_past, func.coalesce(task.due_at, task.created_at)))),
    ).group_by(task.queue, status)


def oldest_due_at(session: Door, models: Models) -> datetime | None:
    """Since when the first enqueued of the tasks that wait and are due has been due; an index alone finds it."""
    task = models.task
    first: str | None = session.execute(select(func.min(task.id)).where(is_due(task))).scalar()
    if first is None:
        return None
    return session.execute(select(func.coalesce(task.due_at, task.created_at)).where(task.id == first)).scalar()
