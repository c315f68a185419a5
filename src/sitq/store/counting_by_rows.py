"""How many tasks there are, by looking at every one of them: some were written by hand, and indexes cannot tell."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import case, func, select

from ..models import Models
from ..stats import TaskGroup
from .door import Door
from .tables import QUEUED, asked_at, count_where


def count_by_rows(session: Door, models: Models, now: datetime) -> list[TaskGroup]:
    """The tasks by queue and status, in one statement."""
    return [TaskGroup(*row) for row in session.execute(every_task(models), {"now": now})]


@lru_cache
def every_task(models: Models) -> Any:
    """The groups of all tasks."""
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
