"""Looking, without changing anything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from sqlalchemy import Executable, bindparam, select
from sqlalchemy.orm import Session

from ..models import Models, Result, Task, TaskStatus
from .door import Door
from .tables import portions


def get_task(session: Session, models: Models, task_id: str) -> Task | None:
    """The task with this id."""
    return cast("Task | None", session.execute(task_of(models), {"wanted": task_id}).scalar())


@lru_cache
def task_of(models: Models) -> Executable:
    """One task. A statement that is kept takes a third less than ``Session.get``, which makes one each time."""
    return select(models.task).where(models.task.id == bindparam("wanted"))


def get_result(session: Session, models: Models, task_id: str) -> Result | None:
    """The result of the task with this id."""
    return cast("Result | None", session.execute(result_of(models), {"of_task": task_id}).scalar())


@lru_cache
def result_of(models: Models) -> Executable:
    """The result of one task."""
    return select(models.result).where(models.result.task_id == bindparam("of_task"))


def has_result(session: Door, models: Models, task_id: str) -> bool:
    """Whether a result is stored for this task."""
    return session.execute(stored_id(models), {"of_task": task_id}).first() is not None


@lru_cache
def stored_id(models: Models) -> Executable:
    """The id of one task, if a result is stored for it."""
    result = models.result
    return select(result.task_id).where(result.task_id == bindparam("of_task"))


def get_statuses(session: Door, models: Models, task_ids: Sequence[str]) -> dict[str, TaskStatus]:
    """The status of each of these tasks; unknown ids are left out."""
    statuses: dict[str, TaskStatus] = {}
    for some in portions(task_ids):
        rows = session.execute(statuses_of(models), {"ids": some})
        statuses |= {row.id: TaskStatus.read(row.status) for row in rows}
    return statuses


@lru_cache
def statuses_of(models: Models) -> Executable:
    """The statuses of some tasks, with their ids."""
    task = models.task
    return select(task.id, task.status).where(task.id.in_(bindparam("ids", expanding=True)))


def list_tasks(
    session: Session,
    models: Models,
    status: str | None = None,
    queue: str | None = None,
    name: str | None = None,
    limit: int | None = None,
) -> list[Task]:
    """The tasks that match all that is given, the newest first."""
    task = models.task
    wanted = {task.status: status, task.queue: queue, task.name: name}
    statement = select(task).where(*(column == value for column, value in wanted.items() if value is not None))
    tasks = session.execute(statement.order_by(task.id.desc()).limit(limit)).scalars()
    return cast("list[Task]", list(tasks))


def list_all_tasks(session: Door, models: Models) -> list[str]:
    """The id of every task, the oldest first; no payload is read."""
    return list(session.execute(select(models.task.id).order_by(models.task.id)).scalars())
