"""Tasks that are not to run: queued ones end at once, running ones are marked for their worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import Update, bindparam, select, update

from ..claims import CancelResult, Token, why_unwanted
from ..models import Models, StoreModels, TaskStatus
from ..wakeups import CANCELLATIONS
from .announcing import announce
from .door import Door
from .results import write_results
from .tables import TRUE, is_running, portions, table_of

RowT = TypeVar("RowT", bound=Sequence[Any])

CANCELLED_TYPE = "sitq.exceptions.TaskCancelledError"


def cancel(
    session: Door, models: StoreModels, task_ids: Sequence[str], reason: str | None, now: datetime
) -> dict[str, CancelResult]:
    """Cancel queued tasks, ask for running ones to be cancelled, and say what became of each."""
    found: dict[str, CancelResult] = {}
    for some in portions(task_ids):
        found |= cancel_some(session, models, sorted(some), reason, now)
    return {task_id: found.get(task_id, CancelResult.UNKNOWN) for task_id in task_ids}


def cancel_some(
    session: Door, models: StoreModels, task_ids: Sequence[str], reason: str | None, now: datetime
) -> dict[str, CancelResult]:
    """Cancel as many tasks as one statement may name."""
    statuses = lock_tasks(session, models, task_ids)
    end_as_cancelled(session, models, dict.fromkeys(ids_in(statuses, TaskStatus.QUEUED), reason), now)
    running = ids_in(statuses, TaskStatus.RUNNING)
    if running:
        session.execute(request_statement(models), {"ids": running, "reason": reason})
        announce(session, models, (CANCELLATIONS,))
    return {task_id: _RESULTS.get(status, CancelResult.ENDED) for task_id, status in statuses.items()}


_RESULTS = {TaskStatus.QUEUED: CancelResult.CANCELLED, TaskStatus.RUNNING: CancelResult.REQUESTED}


def lock_tasks(session: Door, models: Models, task_ids: Sequence[str]) -> dict[str, TaskStatus]:
    """The status of each of these tasks, which stays so until the commit."""
    task = models.task
    rows = session.execute(
        select(task.id, task.status).where(task.id.in_(task_ids)).order_by(task.id).with_for_update()
    )
    return {row.id: TaskStatus.read(row.status) for row in rows}


def ids_in(statuses: Mapping[str, TaskStatus], status: TaskStatus) -> list[str]:
    """The tasks that are in this status."""
    return [task_id for task_id, each in statuses.items() if each is status]


def end_as_cancelled(session: Door, models: StoreModels, reasons: Mapping[str, str | None], now: datetime) -> None:
    """End tasks that nobody runs, each for its reason, and tell who waits for them."""
    if not reasons:
        return
    values = [{"of_task": task_id, "why": why, "at": now} for task_id, why in reasons.items()]
    session.execute(cancel_statement(models), values)
    write_results(session, models, [cancelled_result(task_id, why, now) for task_id, why in reasons.items()])


def cancelled_result(task_id: str, reason: str | None, now: datetime) -> dict[str, Any]:
    """The result's row of a task that was cancelled."""
    return {
        "task_id": task_id,
        "value": None,
        "is_error": True,
        "error_message": reason,
        "error_type": CANCELLED_TYPE,
        "completed_at": now,
        "traceback": None,
    }


def only_wanted(session: Door, models: StoreModels, rows: Sequence[RowT], now: datetime) -> list[RowT]:
    """The claimable rows that are still to run; the others end as cancelled.

    A row begins with the task's id, and ends with ``expires_at`` and ``cancel_requested``.
    """
    unwanted = {row[0]: why for row in rows if (why := why_unwanted(row[-1], row[-2], now)) is not None}
    if not unwanted:
        return list(rows)
    end_as_cancelled(session, models, unwanted, now)
    return [row for row in rows if row[0] not in unwanted]


def cancel_requests(session: Door, models: Models, tokens: Sequence[Token]) -> dict[Token, str | None]:
    """Which of these claims hold tasks that are to be cancelled, and why."""
    task, wanted = models.task, set(tokens)
    found: dict[Token, str | None] = {}
    for ids in portions([token.task_id for token in tokens]):
        rows = session.execute(
            select(task.id, task.worker_id, task.claim_count, task.error_message).where(
                task.id.in_(ids), is_running(task), task.cancel_requested == TRUE
            )
        )
        found |= {Token(row.id, row.worker_id, row.claim_count): row.error_message for row in rows}
    return {token: reason for token, reason in found.items() if token in wanted}


@lru_cache
def cancel_statement(models: Models) -> Update:
    """A task ends without having been run to its end."""
    task = table_of(models.task)
    return (
        update(task)
        .where(task.c.id == bindparam("of_task"))
        .values(
            status=TaskStatus.CANCELLED.value,
            completed_at=bindparam("at"),
            error_message=bindparam("why"),
            unique_key=None,
            worker_id=None,
            lease_until=None,
        )
    )


@lru_cache
def request_statement(models: Models) -> Update:
    """Running tasks are to be cancelled; the reason waits where it will stand in the end."""
    task = table_of(models.task)
    return (
        update(task)
        .where(task.c.id.in_(bindparam("ids", expanding=True)))
        .values(cancel_requested=TRUE, error_message=bindparam("reason"))
    )
