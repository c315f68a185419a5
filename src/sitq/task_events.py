"""What the worker logs about its tasks: events with fields, never a payload."""

from __future__ import annotations

import logging
import time

from .attempt import Attempt
from .claims import Outcome
from .models import TaskStatus

logger = logging.getLogger("sitq.worker")

_LEVELS = {TaskStatus.COMPLETED: logging.DEBUG, TaskStatus.FAILED: logging.ERROR}
_EVENTS = {
    TaskStatus.COMPLETED: "task_completed",
    TaskStatus.FAILED: "task_failed",
    TaskStatus.CANCELLED: "task_cancelled",
}


def task_fields(event: str, attempt: Attempt, **more: object) -> dict[str, object]:
    """The fields of a log event about a task."""
    claim = attempt.claim
    return {
        "event": event,
        "task_id": claim.id,
        "task_name": claim.name,
        "queue": claim.queue,
        "worker_id": claim.worker_id,
        "attempt": claim.retry_count + 1,
        "seconds": round(time.monotonic() - attempt.started, 6),
        **more,
    }


def log_outcome(attempt: Attempt, outcome: Outcome) -> None:
    """Say how an attempt ended."""
    level = _LEVELS.get(outcome.status, logging.INFO)
    if logger.isEnabledFor(level):
        event = _EVENTS.get(outcome.status, "task_retried" if outcome.error_type else "task_given_back")
        fields = task_fields(event, attempt, error_type=outcome.error_type, due_at=outcome.due_at)
        logger.log(level, event.replace("_", " "), extra=fields)
