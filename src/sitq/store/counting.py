"""How many tasks there are, and since when the first of them has been due."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from ..models import Models, StoreModels
from ..stats import TaskGroup
from .counting_in_partial import count_in_partial_indexes
from .counting_in_whole import count_in_whole_indexes
from .door import Door
from .tables import is_due


def count_tasks(session: Door, models: StoreModels, now: datetime) -> list[TaskGroup]:
    """The tasks by queue and status, of one moment; a queue and a status may come in several groups."""
    groups = None if models.index_hint is None else count_in_whole_indexes(session, models, now)
    return count_in_partial_indexes(session, models, now) if groups is None else groups


def oldest_due_at(session: Door, models: Models) -> datetime | None:
    """Since when the first enqueued of the tasks that wait and are due has been due; an index alone finds it."""
    task = models.task
    first: str | None = session.execute(select(func.min(task.id)).where(is_due(task))).scalar()
    if first is None:
        return None
    return session.execute(select(func.coalesce(task.due_at, task.created_at)).where(task.id == first)).scalar()
