"""Ended tasks go, with their results, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, select

from ..models import Models, TaskStatus
from .door import Door
from .results import delete_results
from .tables import ROWS_A_STATEMENT, table_of


class EndedTasks(NamedTuple):
    """The tasks of one queue that ended in one status: one stretch of an index."""

    queue: str
    status: str | None


def ended_tasks(session: Door, models: Models, statuses: Sequence[TaskStatus], before: datetime) -> list[EndedTasks]:
    """Where there are tasks that ended before a moment."""
    task = models.task
    statement = (
        select(task.queue, task.status)
        .where(task.completed_at < before, task.status.in_(statuses))
        .group_by(task.queue, task.status)
    )
    return [EndedTasks(*row) for row in session.execute(statement)]


def purge_some(session: Door, models: Models, ended: EndedTasks, before: datetime) -> int:
    """Delete the tasks that ended first, as many as one statement may name; return how many."""
    task = table_of(models.task)
    statement = (
        select(task.c.id)
        .where(task.c.queue == ended.queue, task.c.status == ended.status, task.c.completed_at < before)
        .order_by(task.c.completed_at)
        .limit(ROWS_A_STATEMENT)
        .with_for_update(skip_locked=True)
    )
    ids = session.execute(statement).scalars().all()
    if ids:
        delete_results(session, models, ids)
        session.execute(delete(task).where(task.c.id.in_(ids)))
    return len(ids)
