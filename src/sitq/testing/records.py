"""Rows, tasks, requests and outcomes for the contract's tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from ..claims import Claim, ClaimRequest, IsolatedTasks, Outcome, TaskRow
from ..ids import new_id
from ..models import Result, Task, TaskMixin, TaskStatus

LONG = 60.0
"""A lease that does not lapse during a test, in seconds."""

MOMENT = datetime(2031, 5, 17, 12, 30, 45, 123456, tzinfo=UTC)
EVERY_BYTE = bytes(range(256)) * 300
EVERY_SCRIPT = "Ünï ✓ 漢字 😀 'quoted' \"twice\"\n%s :name ?"


def new_row(**columns: Any) -> TaskRow:
    """The columns of a task to be enqueued, with those given."""
    required = {
        "id": new_id(),
        "function": b"the function",
        "created_at": datetime.now(UTC),
        "name": "tests.work",
        "queue": "default",
        "priority": 0,
        "max_retries": 0,
    }
    return required | columns


def full_task() -> Task:
    """A task with a value of its own in every column."""
    return Task(
        id=new_id(),
        function=EVERY_BYTE,
        args=b"",
        kwargs=b"\x00",
        priority=-7,
        status=TaskStatus.FAILED.value,
        created_at=MOMENT,
        started_at=MOMENT + timedelta(microseconds=1),
        completed_at=MOMENT.astimezone(timezone(timedelta(hours=5))),
        retry_count=2,
        max_retries=3,
        error_message=EVERY_SCRIPT,
        name="shop.mail.send",
        queue="emails",
        due_at=MOMENT - timedelta(days=1),
        scheduled=True,
        expires_at=MOMENT + timedelta(days=1),
        timeout=0.1,
        unique_key="order-17",
        options='{"key": "value"}',
        worker_id="host-1-a",
        claim_count=4,
        lease_until=MOMENT + timedelta(seconds=30),
        crash_count=1,
        isolated=True,
        cancel_requested=True,
        progress=0.25,
        progress_note="a quarter",
        errors='[{"type": "ValueError"}]',
    )


def full_result(task_id: str) -> Result:
    """A result with a value of its own in every column."""
    return Result(
        task_id=task_id,
        value=EVERY_BYTE,
        is_error=True,
        error_message=EVERY_SCRIPT,
        completed_at=MOMENT,
        error_type="builtins.ValueError",
        traceback="Traceback (most recent call last):\n  …",
    )


def columns_of(record: Task | Result) -> dict[str, Any]:
    """The record's columns and their values; not those that an app has added to a class of its own."""
    known = Task if isinstance(record, TaskMixin) else Result
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(known)}


def request(
    worker_id: str = "worker-1",
    *,
    queues: Sequence[str] = ("default",),
    limit: int = 10,
    lease: float = LONG,
    isolated: IsolatedTasks = IsolatedTasks.LAST,
) -> ClaimRequest:
    """A wish for tasks."""
    return ClaimRequest(worker_id=worker_id, queues=queues, limit=limit, lease=lease, isolated=isolated)


def completed(claim: Claim, value: bytes = b"the value") -> Outcome:
    """The function returned."""
    return Outcome(token=claim.token, status=TaskStatus.COMPLETED, at=MOMENT, value=value)


def failed(claim: Claim, message: str = "it went wrong") -> Outcome:
    """The function raised, for the last time."""
    return Outcome(
        token=claim.token,
        status=TaskStatus.FAILED,
        at=MOMENT,
        error_message=message,
        error_type="builtins.ValueError",
        traceback="Traceback …",
        errors='["first", "last"]',
        retry_count=3,
    )


def cancelled(claim: Claim) -> Outcome:
    """The task was told to stop, and did."""
    return Outcome(
        token=claim.token,
        status=TaskStatus.CANCELLED,
        at=MOMENT,
        error_message="no longer needed",
        error_type="sitq.exceptions.TaskCancelledError",
    )


def retried(claim: Claim, due_at: datetime) -> Outcome:
    """The function raised, and is to run again."""
    return Outcome(
        token=claim.token,
        status=TaskStatus.QUEUED,
        at=datetime.now(UTC),
        error_message="it went wrong",
        errors='["first"]',
        due_at=due_at,
        retry_count=claim.retry_count + 1,
    )
