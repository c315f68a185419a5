"""Ended tasks are put back, as when they were enqueued; what went wrong before stays in their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Update, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from ..claims import RetryResult, unique_key_of
from ..models import Models, StoreModels, TaskStatus
from ..wakeups import queue_topic
from .announcing import announce
from .door import Door
from .results import delete_results
from .tables import FALSE, portions, table_of
from .unique import find_holders


def retry(session: Door, models: StoreModels, task_ids: Sequence[str], now: datetime) -> dict[str, RetryResult]:
    """Put ended tasks back to ``queued``, and say what became of each."""
    found: dict[str, RetryResult] = {}
    for some in portions(task_ids):
        found |= retry_some(session, models, sorted(some), now)
    return {task_id: found.get(task_id, RetryResult.UNKNOWN) for task_id in task_ids}


def retry_some(session: Door, models: StoreModels, task_ids: Sequence[str], now: datetime) -> dict[str, RetryResult]:
    """Put back as many tasks as one statement may name."""
    task = models.task
    question = select(task.id, task.status, task.queue, task.options).where(task.id.in_(task_ids))
    rows: Any = session.execute(question.order_by(task.id).with_for_update()).all()
    keys = {row.id: unique_key_of(row.options) for row in rows if TaskStatus.read(row.status).ended}
    results = {row.id: RetryResult.UNFINISHED for row in rows} | dict.fromkeys(keys, RetryResult.DUPLICATE)
    results |= put_back(session, models, free_keys(session, models, keys), now)
    queued = {row.id: row.queue for row in rows if results[row.id] is RetryResult.QUEUED}
    if queued:
        delete_results(session, models, [*queued])
        announce(session, models, {queue_topic(queue) for queue in queued.values()})
    return results


def free_keys(session: Door, models: Models, keys: Mapping[str, str | None]) -> dict[str, str | None]:
    """The tasks whose key nobody holds, or that have none; of several with one key the first."""
    held = set(find_holders(session, models, {key for key in keys.values() if key is not None}))
    free: dict[str, str | None] = {}
    for task_id, key in keys.items():
        if key is None or key not in held:
            free[task_id] = key
            held |= set() if key is None else {key}
    return free


def put_back(
    session: Door, models: StoreModels, keys: Mapping[str, str | None], now: datetime
) -> dict[str, RetryResult]:
    """Put tasks back with their unique keys, each of which nobody held just now."""
    if not keys:
        return {}
    values = [{"of_task": task_id, "key": key, "at": now} for task_id, key in keys.items()]
    try:
        with session.begin_nested():
            session.execute(put_back_statement(models), values)
    except IntegrityError:  # somebody took a key since
        if len(keys) == 1:
            return dict.fromkeys(keys, RetryResult.DUPLICATE)
        alone = [put_back(session, models, {task_id: key}, now) for task_id, key in keys.items()]
        return {task_id: result for each in alone for task_id, result in each.items()}
    return dict.fromkeys(keys, RetryResult.QUEUED)


@lru_cache
def put_back_statement(models: Models) -> Update:
    """A task waits again as if it were new."""
    task = table_of(models.task)
    empty = (
        "started_at", "completed_at", "expires_at", "error_message", "worker_id", "lease_until", "progress",
        "progress_note",
    )  # fmt: skip
    return (
        update(task)
        .where(task.c.id == bindparam("of_task"))
        .values(
            **dict.fromkeys(empty),
            status=TaskStatus.QUEUED.value,
            due_at=bindparam("at"),
            scheduled=FALSE,
            unique_key=bindparam("key"),
            retry_count=0,
            crash_count=0,
            isolated=FALSE,
            cancel_requested=FALSE,
        )
    )
