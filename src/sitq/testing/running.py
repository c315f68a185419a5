"""Running claims one at a time, where the test runs: from the payload to the written outcome."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, TypeAlias

from ..attempt import Attempt, completed, current_of, failed, raised
from ..backends.base import BaseBackend
from ..claims import Claim, Outcome
from ..control import Cancel, Retry, Snooze
from ..current import set_current
from ..exceptions import InvalidArgumentError
from ..failures import describe
from ..injection import is_async
from ..serialization import Call, Payload, Serializer
from ..tasks import options_of
from ..transactional import DEFAULT_TRANSACTION_WARNING, Ended, TransactionalCalls, last_word

Wait: TypeAlias = Callable[[Awaitable[Any]], Any]
"""Blocks until something has been awaited, and gives its value."""


class Runner:
    """Runs what was claimed: loads it as a worker would, calls it, and writes how it ended.

    Timeouts and processes are a worker's: here every function runs in the test, for as long as it takes.
    """

    def __init__(self, backend: BaseBackend, serializer: Serializer) -> None:
        self._backend = backend
        self._serializer = serializer
        self._transactional = TransactionalCalls(backend, self._returned, warn_after=DEFAULT_TRANSACTION_WARNING)

    def run(self, claim: Claim, wait: Wait) -> Exception | None:
        """Run a task, write its outcome, and return the exception if it failed."""
        attempt = Attempt(claim)
        error: Exception | None = None
        try:
            outcome = self._returned(attempt, self._call(attempt, self._load(attempt), wait))
        except Exception as exc:
            outcome, error = raised(attempt, exc, at=self._backend.now()), exc
        if outcome is not None and not attempt.written:
            progress = last_word(attempt)
            if progress is not None:
                self._backend.write_progress([progress])
            self._backend.finish([outcome])
        return None if isinstance(error, Retry | Snooze | Cancel) else error

    def _load(self, attempt: Attempt) -> Call:
        claim = attempt.claim
        call = self._serializer.load_call(Payload(claim.function, claim.args, claim.kwargs), task_id=claim.id)
        attempt.retry = options_of(call.function).retry
        attempt.current = current_of(claim, now=self._backend.now, report=lambda fraction, note: None)
        attempt.context = copy_context()
        attempt.context.run(set_current, attempt.current)
        return call

    def _call(self, attempt: Attempt, call: Call, wait: Wait) -> Any:
        assert attempt.context is not None
        if options_of(call.function).transactional:
            run = self._transactional.run_on_loop if is_async(call.function) else self._transactional.run
            value: Any = attempt.context.run(run, attempt, call)
        else:
            value = attempt.context.run(call.function, *call.args, **call.kwargs)
        return attempt.context.run(wait, value) if inspect.isawaitable(value) else value

    def _returned(self, attempt: Attempt, value: object) -> Outcome | None:
        if isinstance(value, Ended):
            return value.outcome
        try:
            data = self._serializer.dump_result(value, task_id=attempt.claim.id)
        except Exception as exc:  # serializing a value runs its own code
            return failed(attempt, describe(exc), at=self._backend.now(), answer=False)
        return completed(attempt, data, at=self._backend.now())


def wait_on_a_loop(value: Awaitable[Any]) -> Any:
    """Await on an event loop that is made for it."""

    async def wait() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    if inspect.iscoroutine(value):
        value.close()
    raise InvalidArgumentError("an event loop runs here, so an async function is to be awaited: await adrain()")
