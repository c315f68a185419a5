"""Whole records, written as they are given: the verbs of the documented migration loop."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, insert, inspect, select, update
from sqlalchemy.orm import MappedAsDataclass

from ..claims import DEFAULT_LEASE
from ..exceptions import TaskNotFoundError
from ..models import Result, StoreModels, Task, TaskStatus
from ..wakeups import RESULTS, queue_topic
from .announcing import announce
from .door import Door
from .results import delete_results
from .tables import FALSE, table_of


def store_task(session: Door, models: StoreModels, task: Task, now: datetime) -> None:
    """Insert a task, or replace every column of the one with its id."""
    values = column_values(task, models.task)
    values["created_at"] = values["created_at"] or now
    replace(session, models.task, "id", values)
    announce(session, models, (queue_topic(task.queue), RESULTS))


def store_result(session: Door, models: StoreModels, task_id: str, result: Result, now: datetime) -> None:
    """Insert a task's result, or replace every column of the one it has."""
    known = session.execute(select(models.task.id).where(models.task.id == task_id)).first()
    if known is None:
        raise TaskNotFoundError(task_id)
    values = column_values(result, models.result) | {"task_id": task_id}
    values["completed_at"] = values["completed_at"] or now
    replace(session, models.result, "task_id", values)
    announce(session, models, (RESULTS,))


def update_task_status(session: Door, models: StoreModels, task_id: str, status: TaskStatus, now: datetime) -> str:
    """Put a task into a status, whoever holds it; a claim on it holds no longer. Return its queue."""
    task = table_of(models.task)
    queue: str | None = session.execute(select(task.c.queue).where(task.c.id == task_id)).scalar()
    if queue is None:
        raise TaskNotFoundError(task_id)
    session.execute(update(task).where(task.c.id == task_id).values(status_values(status, now)))
    if not status.ended:
        delete_results(session, models, [task_id])
    announce(session, models, (queue_topic(queue), RESULTS))
    return queue


def status_values(status: TaskStatus, now: datetime) -> dict[str, Any]:
    """The columns that go with a status that an operator sets."""
    values: dict[str, Any] = {"status": status.value, "worker_id": None, "lease_until": None}
    if status.ended:
        return values | {"completed_at": now, "unique_key": None}
    values |= {"completed_at": None, "scheduled": FALSE, "cancel_requested": FALSE}
    if status is TaskStatus.RUNNING:
        values |= {"started_at": now, "lease_until": now + timedelta(seconds=DEFAULT_LEASE)}
    return values


def column_values(record: MappedAsDataclass, model: type[MappedAsDataclass]) -> dict[str, Any]:
    """The record's value for every column of the model that it knows, whatever mapped class the record is of."""
    mapper, columns = inspect(model), table_of(model).columns
    keys = {column.key: mapper.get_property_by_column(column).key for column in columns}
    return {name: getattr(record, key) for name, key in keys.items() if hasattr(record, key)}


def replace(session: Door, model: type[MappedAsDataclass], key: str, values: dict[str, Any]) -> None:
    """Write a whole row under its key, whether the key is known or not."""
    table = table_of(model)
    changed = session.execute(update(table).where(table.c[key] == values[key]).values(values))
    if cast("CursorResult[Any]", changed).rowcount == 0:
        session.execute(insert(table).values(values))
