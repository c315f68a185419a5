"""One attempt at a task: a claim while it runs, and the outcome that each of its ends means."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable
from contextvars import Context
from datetime import datetime, timedelta
from random import random
from typing import Protocol

from .claims import Claim, Outcome
from .control import Cancel, Retry, Snooze
from .current import CurrentTask, Report
from .exceptions import TaskCancelledError
from .failures import Failure, append_failure, describe, dotted_name, dotted_names, shorten
from .models import TaskStatus
from .options import check_seconds
from .retry import Answer, FailedAttempt, next_attempt, read_rule

logger = logging.getLogger("sitq.worker")

LONGEST_REASON = 2_000


class Interruption(enum.Enum):
    """Why the worker ends an attempt that has not ended by itself."""

    TIMEOUT = "timeout"
    LOST = "lost"
    CANCELLED = "cancelled"
    GIVEN_BACK = "given back"


class Killable(Protocol):
    """A process that can be ended at once."""

    def kill(self) -> None:
        """End it, and what it runs."""


class Begun(Protocol):
    """A transaction, perhaps begun."""

    @property
    def begun_at(self) -> float | None:
        """When it began, by ``time.monotonic``."""


class Attempt:
    """A claim that takes one of the worker's slots until its function has ended.

    Attributes:
        claim: what was claimed.
        token: its fencing token.
        started: when, by ``time.monotonic``.
        context: the context variables of the function.
        current: what the function can know of its task.
        retry: what the function's ``@sitq.task(retry=...)`` asks about failures.
        task: what runs it on the event loop; ``None`` while it runs in a thread or a process.
        child: the process that runs it.
        timer: what will happen to it next, as its timeout.
        interruption: why the worker told it to end, if it did.
        closed: whether nothing more will be written for it, although its function still runs.
        transaction: that of a transactional function.
        watch: the next look at how long that is open.
        committing: whether it is being committed, with the ending.
        written: whether it was, so that nothing is left to be written.
    """

    __slots__ = (
        "child",
        "claim",
        "closed",
        "committing",
        "context",
        "current",
        "interruption",
        "retry",
        "started",
        "task",
        "timer",
        "token",
        "transaction",
        "watch",
        "written",
    )

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.token = claim.token
        self.started = time.monotonic()
        self.context: Context | None = None
        self.current: CurrentTask | None = None
        self.retry: Callable[[FailedAttempt], Answer | timedelta] | None = None
        self.task: asyncio.Task[None] | None = None
        self.child: Killable | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.interruption: Interruption | None = None
        self.closed = False
        self.transaction: Begun | None = None
        self.watch: asyncio.TimerHandle | None = None
        self.committing = False
        self.written = False

    def drop_timer(self) -> None:
        """Let nothing happen to it by time any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def end(self) -> None:
        """Drop what would happen to it by time, and look at its transaction no more."""
        self.drop_timer()
        if self.watch is not None:
            self.watch.cancel()


def current_of(claim: Claim, *, now: Callable[[], datetime], report: Report) -> CurrentTask:
    """What the function of a claim can know of its task, and whom it can tell how far it is."""
    return CurrentTask(
        claim.id,
        name=claim.name,
        queue=claim.queue,
        attempt=claim.retry_count + 1,
        deadline=None if claim.timeout is None else now() + timedelta(seconds=claim.timeout),
        report=report,
    )


def completed(attempt: Attempt, value: bytes, *, at: datetime) -> Outcome:
    """The function returned, and its value has been serialized."""
    return Outcome(token=attempt.token, status=TaskStatus.COMPLETED, at=at, value=value)


def raised(attempt: Attempt, exc: BaseException, *, at: datetime) -> Outcome:
    """The function raised: it failed, or said by ``sitq.control`` how its attempt ends."""
    if isinstance(exc, Cancel):
        return cancelled(attempt.claim, str(exc), at=at)
    if isinstance(exc, Snooze):
        return snoozed(attempt.claim, exc.delay, at=at)
    if attempt.current is not None and attempt.current.cancelled:
        return cancelled(attempt.claim, attempt.current.reason, at=at)
    failure = describe(exc)
    if isinstance(exc, Retry):
        return failed(attempt, failure, at=at, answer=True if exc.delay is None else exc.delay)
    return failed(attempt, failure, at=at, answer=ask_function(attempt, failure, exc))


def failed(attempt: Attempt, failure: Failure, *, at: datetime, answer: Answer = None) -> Outcome:
    """The attempt failed: the task is due again later, or it has failed for good. ``answer`` goes before its rule."""
    claim = attempt.claim
    due_at = next_attempt(
        read_rule(claim.options),
        now=at,
        retry_count=claim.retry_count,
        max_retries=claim.max_retries,
        random=random,
        kinds=failure.kinds,
        answer=answer,
    )
    return Outcome(
        token=attempt.token,
        status=TaskStatus.FAILED if due_at is None else TaskStatus.QUEUED,
        at=at,
        error_message=failure.message,
        error_type=failure.type,
        traceback=failure.traceback,
        errors=append_failure(claim.errors, failure, attempt=claim.retry_count + 1, at=at),
        due_at=due_at,
        retry_count=None if due_at is None else claim.retry_count + 1,
    )


def ask_function(attempt: Attempt, failure: Failure, exc: BaseException | None) -> Answer:
    """What the function's own rule says of a failure; ``None`` where it is not asked, or says nothing that counts."""
    claim = attempt.claim
    used_up = claim.retry_count >= claim.max_retries
    if attempt.retry is None or used_up or not read_rule(claim.options).covers(failure.kinds):
        return None
    question = FailedAttempt(failure.type, failure.message, claim.retry_count + 1, claim.max_retries, exc)
    try:
        answer = attempt.retry(question)
        return answer if answer is None or isinstance(answer, bool) else check_seconds("retry's answer", answer)
    except Exception:  # the function is the user's
        fields = {"event": "retry_rule_failed", "task_id": claim.id, "task_name": claim.name}
        logger.exception("the function given as retry= failed, the task's options decide", extra=fields)
        return None


def cancelled(claim: Claim, reason: str | None, *, at: datetime) -> Outcome:
    """The task is not to run any more."""
    return Outcome(
        token=claim.token,
        status=TaskStatus.CANCELLED,
        at=at,
        error_message=None if reason is None else shorten(reason, LONGEST_REASON),
        error_type=dotted_name(TaskCancelledError),
    )


def snoozed(claim: Claim, delay: float, *, at: datetime) -> Outcome:
    """The task waits again, as if this attempt had not been."""
    return Outcome(token=claim.token, status=TaskStatus.QUEUED, at=at, due_at=at + timedelta(seconds=delay))


def interrupted(attempt: Attempt, *, at: datetime) -> Outcome | None:
    """The worker ended the attempt; ``None`` where the task is no longer the worker's."""
    if attempt.interruption is Interruption.LOST:
        return None
    if attempt.interruption is Interruption.GIVEN_BACK:
        return given_back(attempt.claim, at=at)
    if attempt.interruption is Interruption.CANCELLED:
        return cancelled(attempt.claim, None if attempt.current is None else attempt.current.reason, at=at)
    message = f"the task did not end within {attempt.claim.timeout:g} seconds"
    failure = Failure(dotted_name(TimeoutError), message, kinds=dotted_names(TimeoutError))
    return failed(attempt, failure, at=at, answer=ask_function(attempt, failure, TimeoutError(message)))


def given_back(claim: Claim, *, at: datetime) -> Outcome:
    """The task waits again as if it had not been claimed."""
    return Outcome(token=claim.token, status=TaskStatus.QUEUED, at=at, due_at=at)


def unstorable(outcome: Outcome, exc: Exception) -> Outcome:
    """The task completed, but the database refuses its value, again and again."""
    return Outcome(
        token=outcome.token,
        status=TaskStatus.FAILED,
        at=outcome.at,
        error_type=dotted_name(type(exc)),
        error_message=f"the task completed, but its value of {len(outcome.value or b'')} bytes could not be stored",
    )
