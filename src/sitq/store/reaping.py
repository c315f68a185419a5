"""Running tasks whose worker has died are put back, or fail where the crash rule says so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, Update, bindparam, or_, select, update

from ..crashes import AfterCrash, after_crash
from ..exceptions import TaskCrashedError
from ..failures import Failure, append_failure, dotted_name
from ..models import Models, StoreModels, TaskStatus
from ..wakeups import queue_topic
from .announcing import announce
from .door import Door
from .results import write_results
from .tables import ROWS_A_STATEMENT, is_running, table_of

JUDGED = ("id", "queue", "options", "isolated", "crash_count", "retry_count", "due_at", "unique_key", "errors")
"""What must be known of a task to judge what becomes of it."""


def reap(session: Door, models: StoreModels, now: datetime) -> dict[str, str]:
    """Put back running tasks whose lease has lapsed, or that have none; return the queue of each."""
    return put_back(session, models, session.execute(lapsed_tasks(models), {"now": now}).all(), now)


def reap_workers(session: Door, models: StoreModels, worker_ids: Sequence[str], now: datetime) -> dict[str, str]:
    """Put back what these workers ran, as many as one statement may name; return the queue of each."""
    return put_back(session, models, session.execute(tasks_of(models), {"workers": list(worker_ids)}).all(), now)


def put_back(session: Door, models: StoreModels, crashed: Sequence[Row[Any]], now: datetime) -> dict[str, str]:
    """Let crashed tasks, whose rows this transaction has locked, run again alone, or fail."""
    if not crashed:
        return {}
    verdicts = [after_crash(row.options, isolated=row.isolated, crash_count=row.crash_count) for row in crashed]
    changes = [crash_values(row, verdict, now) for row, verdict in zip(crashed, verdicts, strict=True)]
    session.execute(put_back_statement(models), changes)
    store_failures(session, models, [change for change in changes if change["ended_at"] is not None])
    announce(session, models, {queue_topic(row.queue) for row in crashed})
    return {row.id: row.queue for row in crashed}


def store_failures(session: Door, models: StoreModels, failed: list[dict[str, Any]]) -> None:
    """Store the results of tasks that failed of their crashes."""
    write_results(session, models, [failure_values(change) for change in failed])


def crash_values(row: Row[Any], verdict: AfterCrash, now: datetime) -> dict[str, Any]:
    """What ``put_back_statement`` asks for."""
    runs_again = verdict.failure is None
    crash = Failure(dotted_name(TaskCrashedError), verdict.message)
    return {
        "of_task": row.id,
        "to": (TaskStatus.QUEUED if runs_again else TaskStatus.FAILED).value,
        "again": runs_again,
        "due": now if runs_again else row.due_at,
        "ended_at": None if runs_again else now,
        "crashes": verdict.crash_count,
        "key": row.unique_key if runs_again else None,
        "message": verdict.message,
        "history": append_failure(row.errors, crash, attempt=(row.retry_count or 0) + 1, at=now),
    }


def failure_values(change: dict[str, Any]) -> dict[str, Any]:
    """The row of a result that says of a crash."""
    return {
        "task_id": change["of_task"],
        "value": None,
        "is_error": True,
        "error_message": change["message"],
        "completed_at": change["ended_at"],
        "error_type": dotted_name(TaskCrashedError),
        "traceback": None,
    }


@lru_cache
def lapsed_tasks(models: Models) -> Select[Any]:
    """Running tasks that are nobody's any more."""
    task = models.task
    return running_tasks(models).where(or_(task.lease_until.is_(None), task.lease_until <= bindparam("now")))


@lru_cache
def tasks_of(models: Models) -> Select[Any]:
    """Running tasks of some workers."""
    return running_tasks(models).where(models.task.worker_id.in_(bindparam("workers", expanding=True)))


def running_tasks(models: Models) -> Select[Any]:
    """Running tasks that nobody else is about to put back, as many as one statement may name."""
    task = models.task
    return (
        select(*(getattr(task, name) for name in JUDGED))
        .where(is_running(task))
        .limit(ROWS_A_STATEMENT)
        .with_for_update(skip_locked=True)
    )


@lru_cache
def put_back_statement(models: Models) -> Update:
    """Without a worker's id the old token fits no more; what is to run alone waits apart from the due tasks."""
    task = table_of(models.task)
    return (
        update(task)
        .where(task.c.id == bindparam("of_task"))
        .values(
            status=bindparam("to"),
            scheduled=bindparam("again"),
            isolated=bindparam("again"),
            due_at=bindparam("due"),
            completed_at=bindparam("ended_at"),
            crash_count=bindparam("crashes"),
            unique_key=bindparam("key"),
            error_message=bindparam("message"),
            errors=bindparam("history"),
            worker_id=None,
            lease_until=None,
        )
    )
