"""What a worker and a backend hand each other: requests for work, claims, and how they ended.

Plain records, no database: a stranger's backend needs only these and the two models.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from .models import TaskStatus

DEFAULT_LEASE = 30.0
"""For how long a claim is its worker's unless it extends, in seconds."""

TaskRow: TypeAlias = dict[str, Any]
"""The column values of a task to be enqueued; columns that keep their default are left out.

Beside them, ``on_conflict`` says what to do where another unfinished task bears the ``unique_key``: ``"skip"``
unless given, ``"replace"`` or ``"raise"``.
"""


class IsolatedTasks(enum.Enum):
    """What a claim does about tasks that must run alone, since their worker died when they last ran."""

    NONE = "none"
    """It passes over them: the worker runs something."""

    FIRST = "first"
    """It gives one of them if there is one, and nothing else."""

    LAST = "last"
    """It gives one of them if there is nothing else."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A worker's wish for tasks.

    Attributes:
        worker_id: who claims; the first half of the fencing token.
        queues: names of the queues, asked in this order.
        limit: at most this many tasks, 1 or more.
        lease: for how long the tasks are the worker's unless it extends, in seconds.
        isolated: what to do about tasks that must run alone.
    """

    worker_id: str
    queues: Sequence[str]
    limit: int
    lease: float
    isolated: IsolatedTasks = IsolatedTasks.LAST


class Claim(NamedTuple):
    """One task in a worker's hands, until its lease lapses.

    ``worker_id`` and ``claim_count`` are the fencing token: every later write carries both. An ``isolated`` one
    is to run alone.
    """

    id: str
    worker_id: str
    claim_count: int
    queue: str
    name: str | None
    function: bytes
    args: bytes | None
    kwargs: bytes | None
    priority: int
    created_at: datetime | None
    retry_count: int
    max_retries: int
    timeout: float | None = None
    options: str | None = None
    crash_count: int = 0
    errors: str | None = None
    isolated: bool = False

    def __repr__(self) -> str:
        return f"Claim(id={self.id!r}, name={self.name!r}, claim_count={self.claim_count})"

    @property
    def token(self) -> Token:
        """What proves that a write belongs to this claim."""
        return Token(self.id, self.worker_id, self.claim_count)


class Token(NamedTuple):
    """The task, its worker and the number of the claim: the fence around every ending and extension."""

    task_id: str
    worker_id: str
    claim_count: int


class Progress(NamedTuple):
    """How far a running task says it is: from 0 to 1, and in words."""

    token: Token
    fraction: float
    note: str | None


class CancelResult(enum.StrEnum):
    """What became of a wish to cancel a task."""

    CANCELLED = "cancelled"
    """It was queued, and has ended as cancelled."""

    REQUESTED = "requested"
    """It runs, and its worker has been told: an async function is cancelled, one in a thread can look."""

    ENDED = "ended"
    """It had ended before; nothing was changed."""

    UNKNOWN = "unknown"
    """There is no such task."""


class RetryResult(enum.StrEnum):
    """What became of a wish to run a task again that has ended."""

    QUEUED = "queued"
    """It waits again, as when it was enqueued."""

    UNFINISHED = "unfinished"
    """It has not ended; nothing was changed."""

    DUPLICATE = "duplicate"
    """Another unfinished task bears its unique key; nothing was changed."""

    UNKNOWN = "unknown"
    """There is no such task."""


class Outcome(NamedTuple):
    """How one claim ended.

    Attributes:
        token: the claim that ended.
        status: ``completed``, ``failed`` or ``cancelled``; ``queued`` for a retry.
        at: when it ended, by the worker's reading of the database's clock.
        value: the serialized return value of a completed task.
        error_message: why it did not complete.
        error_type: dotted name of the exception's class.
        traceback: the worker's traceback.
        errors: the task's ``errors`` column from now on, or ``None`` to leave it.
        due_at: for a retry, when the task is due again.
        retry_count: the task's ``retry_count`` from now on, or ``None`` to leave it.
    """

    token: Token
    status: TaskStatus
    at: datetime
    value: bytes | None = None
    error_message: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    errors: str | None = None
    due_at: datetime | None = None
    retry_count: int | None = None

    def __repr__(self) -> str:
        return f"Outcome(task_id={self.token.task_id!r}, status={self.status.value!r})"


EXPIRED = "it expired: no worker began it in time"
CANCELLED_WHILE_IT_RAN = "it was cancelled while an earlier attempt ran"


def why_unwanted(cancel_requested: bool, expires_at: datetime | None, now: datetime) -> str | None:
    """Why a task that could be claimed is not to run; ``None`` if it is."""
    if cancel_requested:
        return CANCELLED_WHILE_IT_RAN
    if expires_at is not None and expires_at <= now:
        return EXPIRED
    return None


def unique_key_of(options: str | None) -> str | None:
    """The unique key that a task was enqueued with, by its ``options`` column; its own is empty once it has ended."""
    try:
        stored = json.loads(options) if options else None
    except ValueError:
        return None
    key = stored.get("unique_key") if isinstance(stored, dict) else None
    return key if isinstance(key, str) else None
