"""What claims and their outcomes are as records: for a storage that keeps whole tasks."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from ..claims import Claim, Outcome, Token
from ..crashes import AfterCrash, after_crash
from ..exceptions import TaskCrashedError
from ..failures import Failure, append_failure, dotted_name
from ..models import Result, Task, TaskStatus

CANCELLED_TYPE = "sitq.exceptions.TaskCancelledError"


def claim_of(task: Task, worker_id: str) -> Claim:
    """What a worker is handed of a task that it has claimed."""
    return Claim(
        id=task.id,
        worker_id=worker_id,
        claim_count=task.claim_count,
        queue=task.queue,
        name=task.name,
        function=task.function,
        args=task.args,
        kwargs=task.kwargs,
        priority=task.priority or 0,
        created_at=task.created_at,
        retry_count=task.retry_count or 0,
        max_retries=task.max_retries or 0,
        timeout=task.timeout,
        options=task.options,
        crash_count=task.crash_count,
        errors=task.errors,
        isolated=task.isolated,
    )


def result_of(outcome: Outcome) -> Result:
    """The result of a claim that ended its task."""
    is_error = outcome.status is not TaskStatus.COMPLETED
    cancelled = outcome.status is TaskStatus.CANCELLED
    return Result(
        task_id=outcome.token.task_id,
        value=outcome.value,
        is_error=is_error,
        error_message=outcome.error_message,
        completed_at=outcome.at,
        error_type=outcome.error_type or (CANCELLED_TYPE if cancelled else None),
        traceback=outcome.traceback,
    )


def after_outcome(task: Task, outcome: Outcome) -> Task:
    """A copy of the task with all that the outcome changes, but for the status."""
    return dataclasses.replace(
        task,
        completed_at=outcome.at if outcome.status.ended else None,
        due_at=outcome.due_at or task.due_at,
        retry_count=task.retry_count if outcome.retry_count is None else outcome.retry_count,
        error_message=outcome.error_message,
        errors=task.errors if outcome.errors is None else outcome.errors,
        lease_until=None,
        unique_key=None if outcome.status.ended else task.unique_key,
        isolated=False,
    )


def is_written(task: Task | None, outcome: Outcome) -> bool:
    """Whether the task bears this outcome already, from an earlier try of the same claim."""
    if task is None or (task.worker_id, task.claim_count) != outcome.token[1:] or task.status != outcome.status:
        return False
    again = after_outcome(task, outcome)
    return all(getattr(again, field.name) == getattr(task, field.name) for field in dataclasses.fields(task))


def crash_of(task: Task) -> AfterCrash:
    """What becomes of a task whose worker died."""
    return after_crash(task.options, isolated=task.isolated, crash_count=task.crash_count)


def crash_history(task: Task, crash: AfterCrash, at: datetime) -> str:
    """The task's ``errors`` with this crash."""
    failure = Failure(dotted_name(TaskCrashedError), crash.message)
    return append_failure(task.errors, failure, attempt=(task.retry_count or 0) + 1, at=at)


def abandoned(task: Task, crash: AfterCrash, at: datetime) -> Task:
    """A copy of a task whose worker died, as it waits for another, to run alone."""
    return dataclasses.replace(
        task,
        worker_id=None,
        isolated=True,
        due_at=at,
        crash_count=crash.crash_count,
        error_message=crash.message,
        errors=crash_history(task, crash, at),
    )


def failed_of_crashes(task: Task, crash: AfterCrash, at: datetime) -> Outcome:
    """How the last claim of a task ended whose worker died too often."""
    return Outcome(
        token=Token(task.id, "", task.claim_count),
        status=TaskStatus.FAILED,
        at=at,
        error_message=crash.failure,
        error_type=dotted_name(TaskCrashedError),
        errors=crash_history(task, crash, at),
    )
