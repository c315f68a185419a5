"""What the ways to count tasks by indexes have in common."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, case, cast, func, literal_column, null, select

from ..columns import Moment, UTCDateTime
from ..models import Models, TaskMixin
from .tables import QUEUED, is_scheduled

ZERO: ColumnElement[Any] = literal_column("0")
NO_TIME = cast(null(), Moment)

UNTOLD, BY_HAND = 1, 2
"""What may be in doubt about a group: since when its oldest is due; and how its tasks count, since somebody wrote
some of them by hand."""


def asked_at() -> ColumnElement[datetime]:
    """The moment of the question."""
    return bindparam("now", type_=UTCDateTime())


def count_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """In how many rows something holds."""
    return func.count(case((condition, 1)))


def by_hand_if(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    """The doubt about a group for which something holds."""
    return case((condition, literal_column(str(BY_HAND))), else_=ZERO)


def overdue(models: Models) -> Select[Any]:
    """Scheduled tasks whose time has come, few as a rule; by their order they are found in the index of times."""
    task = models.task
    few = select(task.queue, task.due_at).where(is_scheduled(task), task.due_at <= asked_at()).order_by(task.due_at)
    some = few.limit(literal_column(str(sys.maxsize))).subquery()  # without a limit the order counts for nothing
    rows = select(some.c.queue, QUEUED, ZERO, -func.count(), ZERO, func.min(some.c.due_at), ZERO)
    return rows.group_by(some.c.queue)


def is_timeless(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The scheduled tasks that somebody wrote by hand without a time."""
    return is_scheduled(task) & task.due_at.is_(None)
