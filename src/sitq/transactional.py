"""Transactional tasks, from the worker's side: the function is called with a session, and ends by a commit.

The commit holds what the function did with its session, the tasks that it enqueued there, its result and its
completion; or nothing, if the claim was lost. Any other end is rolled back, and then written as every task's.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from .attempt import Attempt, Interruption
from .backends.transactions import AsyncTaskTransaction, TaskTransaction, Transactions
from .claims import Outcome, Progress
from .exceptions import TaskError
from .injection import is_async, with_session
from .models import TaskStatus
from .serialization import Call
from .task_events import log_outcome, task_fields
from .unbroken import unbroken

logger = logging.getLogger("sitq.worker")

Returned: TypeAlias = Callable[[Attempt, object], Outcome | None]
"""Makes the outcome of what a function returned; ``None`` if the attempt was interrupted."""

DEFAULT_TRANSACTION_WARNING = 5.0
"""For how long a transaction may be open before it is reported, in seconds."""

WARN_AGAIN = 60.0
"""Seconds between warnings of a transaction that stays open."""


class Ended(NamedTuple):
    """What a call in a transaction gives in place of the function's value."""

    outcome: Outcome | None


class TransactionalCalls:
    """Calls transactional functions.

    Args:
        backend: begins the transactions.
        returned: makes the outcome of what a function returned.
        warn_after: for how long a transaction may be open before it is reported, in seconds.
    """

    def __init__(self, backend: Transactions, returned: Returned, *, warn_after: float) -> None:
        self._backend = backend
        self._returned = returned
        self._warn_after = warn_after

    def wrap(self, attempt: Attempt, call: Call) -> Call:
        """The call of the same kind, sync or async, that makes this one in a transaction."""
        self._look_later(attempt, self._warn_after)
        run = self.run_on_loop if is_async(call.function) else self.run
        return Call(partial(run, attempt, call), (), {})

    def run(self, attempt: Attempt, call: Call) -> Ended:
        """Make the call of a sync function here and now."""

        def work(transaction: TaskTransaction) -> Ended:
            attempt.transaction = transaction
            args, kwargs = with_session(call.function, call.args, call.kwargs, transaction.session)
            outcome = self._returned(attempt, refuse_awaitable(call.function(*args, **kwargs)))
            if outcome is not None and outcome.status is TaskStatus.COMPLETED:
                with Committing(attempt, outcome) as committing:
                    committing.held = transaction.complete(outcome, last_word(attempt))
            return Ended(outcome)

        return self._backend.transact(work)

    async def run_on_loop(self, attempt: Attempt, call: Call) -> Ended:
        """Make the call of an async function."""

        async def complete(transaction: AsyncTaskTransaction, outcome: Outcome) -> None:
            with Committing(attempt, outcome) as committing:
                committing.held = await transaction.complete(outcome, last_word(attempt))

        async def work(transaction: AsyncTaskTransaction) -> Ended:
            attempt.transaction = transaction
            args, kwargs = with_session(call.function, call.args, call.kwargs, transaction.session)
            outcome = self._returned(attempt, await call.function(*args, **kwargs))
            if outcome is not None and outcome.status is TaskStatus.COMPLETED:
                await unbroken(complete(transaction, outcome))
            return Ended(outcome)

        return await self._backend.atransact(work)

    def _look_later(self, attempt: Attempt, wait: float) -> None:
        attempt.watch = asyncio.get_running_loop().call_later(wait, self._look, attempt)

    def _look(self, attempt: Attempt) -> None:
        """Report a transaction that has been open for long, or look again when it will have been."""
        begun_at = None if attempt.transaction is None else attempt.transaction.begun_at
        open_for = 0.0 if begun_at is None else time.monotonic() - begun_at
        if open_for < self._warn_after:
            self._look_later(attempt, self._warn_after - open_for)
            return
        fields = task_fields("transaction_open_long", attempt, seconds_open=round(open_for, 3))
        logger.warning("a task's transaction has been open for long, and its locks are held", extra=fields)
        self._look_later(attempt, max(self._warn_after, WARN_AGAIN))


class Committing:
    """Notes on an attempt that its ending is being committed, and whether it was."""

    def __init__(self, attempt: Attempt, outcome: Outcome) -> None:
        self.held: bool | None = None
        self._attempt = attempt
        self._outcome = outcome

    def __enter__(self) -> Committing:
        self._attempt.committing = True
        return self

    def __exit__(self, *_: object) -> None:
        attempt = self._attempt
        if self.held:
            attempt.written = True
            log_outcome(attempt, self._outcome)
        elif self.held is False:
            attempt.interruption = Interruption.LOST
            fields = task_fields("outcome_dropped", attempt)
            logger.warning("outcome dropped and its transaction rolled back, the claim was lost", extra=fields)
        attempt.committing = False


def last_word(attempt: Attempt) -> Progress | None:
    """What the function said last of how far it is: an ending would fence it out if it were written later."""
    said = None if attempt.current is None else attempt.current.said
    return None if said is None else Progress(attempt.token, *said)


def refuse_awaitable(value: object) -> object:
    """Return what a sync function returned; what is to be awaited would be so after the transaction."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TaskError("a transactional function that returns an awaitable must be an async def")
    return value
