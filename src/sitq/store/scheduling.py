"""Future tasks: whether the time of any has come, when that of the next does, and how they become due."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, Update, bindparam, select, update

from ..models import Models, TaskMixin
from .door import Door
from .tables import FALSE, ROWS_A_STATEMENT, is_scheduled, table_of


def time_has_come(session: Door, models: Models, now: datetime) -> bool:
    """Whether there are future tasks whose time has come; another worker may be about to release them."""
    return session.execute(any_scheduled(models), {"now": now}).first() is not None


def release_scheduled(session: Door, models: Models, now: datetime) -> None:
    """Let the claim see future tasks whose time has come."""
    ids = session.execute(scheduled_ids(models), {"now": now}).scalars().all()
    if ids:
        session.execute(release_statement(models), {"ids": ids})


def next_due_at(session: Door, models: Models) -> datetime | None:
    """When the next future task becomes due.

    It may be one of any queue: to ask for some, a million future tasks of another would be passed over.
    """
    return session.execute(first_due_time(models)).scalar()


@lru_cache
def first_due_time(models: Models) -> Select[Any]:
    """When the first of the future tasks becomes due."""
    task = models.task
    future = is_scheduled(task) & (task.isolated == FALSE) & task.due_at.is_not(None)
    return select(task.due_at).where(future).order_by(task.due_at).limit(1)


@lru_cache
def scheduled_ids(models: Models) -> Executable:
    """The future tasks whose time has come, the earliest first, as many as one statement may name."""
    task = models.task
    earliest = select(task.id).where(has_come(task)).order_by(task.due_at)
    return earliest.limit(ROWS_A_STATEMENT).with_for_update(skip_locked=True)


@lru_cache
def any_scheduled(models: Models) -> Select[Any]:
    """Any of the future tasks whose time has come.

    The first is sought, then compared: with the time among the conditions PostgreSQL goes through the whole index,
    since it leaves out those that the index implies, and with them the columns before the time.
    """
    first = first_due_time(models).subquery()
    return select(first.c.due_at).where(first.c.due_at <= bindparam("now"))


def has_come(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The future tasks whose time has come."""
    return is_scheduled(task) & (task.due_at <= bindparam("now")) & (task.isolated == FALSE)


@lru_cache
def release_statement(models: Models) -> Update:
    """Future tasks become due."""
    task = table_of(models.task)
    return update(task).where(task.c.id.in_(bindparam("ids", expanding=True))).values(scheduled=FALSE)
