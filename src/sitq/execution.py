"""Running claimed tasks: from the payload to the outcome. No database here.

Async functions run on the event loop, sync ones in threads, and those that ask for it in processes. Whatever
a function raises, down to ``SystemExit``, ends its own task only.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime
from functools import partial
from typing import Any

from .attempt import Attempt, Interruption, completed, current_of, failed, interrupted, raised
from .backends.transactions import Transactions
from .children import Child, Children, request_of, runs_in_process
from .claims import Claim, Outcome, Progress, Token
from .current import CurrentTask, set_current
from .failures import describe
from .injection import is_async
from .serialization import Call, Payload, Serializer
from .task_events import log_outcome, task_fields
from .tasks import options_of
from .threads import TaskThreads, Then
from .transactional import DEFAULT_TRANSACTION_WARNING, Ended, TransactionalCalls

logger = logging.getLogger("sitq.worker")

CANCEL_GRACE = 5.0
"""Seconds that a cancelled async function has to clean up before its task is ended without it."""

REPORT_INTERVAL = 60.0
"""Seconds between reports of a function that still runs although its task has ended."""


class Execution:
    """What a worker runs at the moment. Made and used on the worker's event loop.

    Attributes:
        outcomes: how attempts ended, for the worker to take out and write.
        progress: the latest word of each running task that said how far it is, to be taken out and written.
    """

    def __init__(
        self,
        serializer: Serializer,
        *,
        slots: int,
        processes: int,
        now: Callable[[], datetime],
        on_end: Callable[[], None],
        transactions: Transactions | None = None,
        transaction_warning: float = DEFAULT_TRANSACTION_WARNING,
    ) -> None:
        self.outcomes: deque[Outcome] = deque()
        self.progress: dict[Token, Progress] = {}
        self._serializer = serializer
        self._slots = slots
        self._now = now
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._threads = TaskThreads()
        self._children = Children(serializer, processes)
        self._transactional = TransactionalCalls(
            transactions or Transactions(), self._returned, warn_after=transaction_warning
        )
        self._attempts: dict[Token, Attempt] = {}

    @property
    def free_slots(self) -> int:
        """How many more tasks may be started."""
        return self._slots - len(self._attempts)

    @property
    def unfinished(self) -> bool:
        """Whether an outcome is still to come."""
        return any(not attempt.closed for attempt in self._attempts.values())

    def tokens(self) -> list[Token]:
        """The claims whose outcome is still to come; callable from any thread."""
        return [attempt.token for attempt in list(self._attempts.values()) if not (attempt.closed or attempt.written)]

    def start(self, claim: Claim) -> None:
        """Run a task in one of the free slots."""
        attempt = Attempt(claim)
        self._attempts[attempt.token] = attempt
        try:
            self._begin(attempt)
        except BaseException as exc:  # loading imports and runs the user's code
            self._end(attempt, failed(attempt, describe(exc), at=self._now()))

    def _begin(self, attempt: Attempt) -> None:
        claim = attempt.claim
        if runs_in_process(claim.options):
            self._threads.submit(partial(self._run_in_child, attempt))
            return
        call = self._serializer.load_call(Payload(claim.function, claim.args, claim.kwargs), task_id=claim.id)
        self._set_timer(attempt)
        options = options_of(call.function)
        attempt.retry = options.retry
        if options.transactional:
            call = self._transactional.wrap(attempt, call)
        attempt.current = self._current(attempt)
        attempt.context = copy_context()
        attempt.context.run(set_current, attempt.current)
        if is_async(call.function):
            attempt.task = self._loop.create_task(self._run_on_loop(attempt, call), context=attempt.context)
        else:
            self._threads.submit(partial(self._run_in_thread, attempt, call))

    def _set_timer(self, attempt: Attempt) -> None:
        if attempt.claim.timeout is not None and attempt.interruption is None:
            timeout = attempt.claim.timeout
            attempt.timer = self._loop.call_later(timeout, self._interrupt, attempt, Interruption.TIMEOUT)

    def _current(self, attempt: Attempt) -> CurrentTask:
        token, progress = attempt.token, self.progress

        def report(fraction: float, note: str | None) -> None:
            progress[token] = Progress(token, fraction, note)

        return current_of(attempt.claim, now=self._now, report=report)

    def cancel(self, token: Token, reason: str | None) -> None:
        """Cancel an async function; let one in a thread see that it is to end."""
        attempt = self._attempts.get(token)
        if attempt is None or attempt.closed or attempt.current is None or attempt.current.cancelled:
            return
        logger.info("task is to be cancelled", extra=task_fields("task_cancel_requested", attempt))
        attempt.current.cancel(reason)
        if (attempt.task is not None or attempt.child is not None) and attempt.interruption is None:
            self._interrupt(attempt, Interruption.CANCELLED)

    def lose(self, tokens: list[Token]) -> None:
        """End what runs under claims that are no longer this worker's; nothing is written for them."""
        for token in tokens:
            attempt = self._attempts.get(token)
            if attempt is not None and not (attempt.closed or attempt.committing or attempt.written):
                logger.warning("claim lost", extra=task_fields("claim_lost", attempt))
                self._interrupt(attempt, Interruption.LOST)

    def give_back(self) -> None:
        """Tell all that runs to end; its tasks will be put back."""
        for attempt in list(self._attempts.values()):
            if attempt.interruption is None:
                self._interrupt(attempt, Interruption.GIVEN_BACK)

    async def finish_giving_back(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for what was told to end; then every task has its outcome."""
        cancelled = [attempt.task for attempt in self._attempts.values() if attempt.task is not None]
        if cancelled:
            await asyncio.wait(cancelled, timeout=grace)
        deadline = self._loop.time() + grace
        # The threads see by themselves that their processes are gone.
        while self._loop.time() < deadline and any(each.child for each in self._attempts.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # see _end_soon
        for attempt in list(self._attempts.values()):
            self._close(attempt)

    def shut_down(self) -> None:
        """Let the threads end, and forget functions that never do."""
        self._threads.close()
        self._children.close()
        for attempt in self._attempts.values():
            attempt.end()

    # The run of one attempt: on the loop, or in a thread and back.

    async def _run_on_loop(self, attempt: Attempt, call: Call) -> None:
        try:
            value = await call.function(*call.args, **call.kwargs)
        except asyncio.CancelledError as exc:
            self._end_soon(attempt, self._raised(attempt, exc))
        except BaseException as exc:  # a task's SystemExit is the task's failure
            self._end(attempt, self._raised(attempt, exc))
        else:
            self._end(attempt, self._returned(attempt, value))

    def _run_in_thread(self, attempt: Attempt, call: Call) -> Then:
        assert attempt.context is not None
        try:
            value = attempt.context.run(call.function, *call.args, **call.kwargs)
        except BaseException as exc:  # as above
            outcome = self._raised(attempt, exc)
        else:
            if inspect.isawaitable(value):
                return partial(self._go_on_with, attempt, value)
            outcome = self._returned(attempt, value)
        return partial(self._end, attempt, outcome)

    def _run_in_child(self, attempt: Attempt) -> Then:
        """Wait in a thread for what runs in a process."""
        outcome: Outcome | None
        try:
            outcome = self._children.run(
                lambda: request_of(attempt.claim, self._now()),
                partial(self._begin_in_child, attempt),
                self._note_progress,
            )
        except BaseException as exc:  # the process died, or there was none
            outcome = self._raised(attempt, exc)
        return partial(self._end, attempt, outcome)

    def _begin_in_child(self, attempt: Attempt, child: Child) -> None:
        attempt.child = child
        if attempt.interruption is not None:  # while it waited for a process
            child.kill()
            return
        attempt.current = self._current(attempt)
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._set_timer, attempt)

    def _note_progress(self, progress: Progress) -> None:
        self.progress[progress.token] = progress

    def _go_on_with(self, attempt: Attempt, awaitable: Awaitable[Any]) -> None:
        """Await on the loop what a sync function returned."""
        if attempt.closed:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            self._end(attempt, None)
            return
        call = Call(lambda: awaitable, (), {})
        attempt.task = self._loop.create_task(self._run_on_loop(attempt, call), context=attempt.context)
        if attempt.current is not None and attempt.current.cancelled:
            self._interrupt(attempt, Interruption.CANCELLED)

    def _returned(self, attempt: Attempt, value: object) -> Outcome | None:
        if isinstance(value, Ended):
            return value.outcome
        if attempt.interruption is not None:
            return None
        try:
            data = self._serializer.dump_result(value, task_id=attempt.claim.id)
        except BaseException as exc:  # serializing a value runs its own code
            # The function has done its work, and would return the same again.
            return failed(attempt, describe(exc), at=self._now(), answer=False)
        return completed(attempt, data, at=self._now())

    def _raised(self, attempt: Attempt, exc: BaseException) -> Outcome | None:
        if attempt.interruption is not None:
            return None
        return raised(attempt, exc, at=self._now())

    # Its end.

    def _interrupt(self, attempt: Attempt, why: Interruption) -> None:
        """Tell a function on the loop to end, and give it time to; leave one in a thread alone."""
        attempt.drop_timer()
        attempt.interruption = why
        if attempt.child is not None:
            attempt.child.kill()
            attempt.timer = self._loop.call_later(CANCEL_GRACE, self._close, attempt)
        elif attempt.task is None:
            self._close(attempt)
        else:
            attempt.task.cancel()
            attempt.task.add_done_callback(partial(self._end_unbegun, attempt))
            attempt.timer = self._loop.call_later(CANCEL_GRACE, self._close, attempt)

    def _end_unbegun(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """End an attempt that was cancelled before its first step, so that nothing in it could."""
        if self._attempts.get(attempt.token) is attempt:
            self._end(attempt, None)

    def _close(self, attempt: Attempt) -> None:
        """Write the outcome of an attempt that was interrupted and runs on."""
        if not attempt.closed:
            attempt.closed = True
            self._keep(attempt, None)
            self._on_end()
        self._report(attempt)

    def _report(self, attempt: Attempt) -> None:
        logger.warning("function still runs, its task has ended", extra=task_fields("function_still_runs", attempt))
        attempt.timer = self._loop.call_later(REPORT_INTERVAL, self._report, attempt)

    def _end_soon(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """End a cancelled attempt in the next step of the loop.

        If all that runs on the loop is being cancelled, the worker learns of it before that, and gives the
        task back instead of letting it fail.
        """
        self._loop.call_soon(self._end, attempt, outcome)

    def _end(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """Free the slot and keep the outcome for the worker."""
        attempt.end()
        del self._attempts[attempt.token]
        if attempt.closed:
            logger.info("function ended after its task", extra=task_fields("function_ended_late", attempt))
        else:
            self._keep(attempt, outcome)
        self._on_end()

    def _keep(self, attempt: Attempt, outcome: Outcome | None) -> None:
        if attempt.written:
            return
        if attempt.interruption is not None:
            outcome = interrupted(attempt, at=self._now())
        if outcome is not None:
            self.outcomes.append(outcome)
            log_outcome(attempt, outcome)
