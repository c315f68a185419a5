"""What a worker does for its running tasks: it tells them that they are to be cancelled, and writes their progress."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from .backends.base import BaseBackend
from .execution import Execution
from .wakeups import CANCELLATIONS

logger = logging.getLogger("sitq.worker")

INTERVAL = 0.5
"""Seconds between looks for cancellations of other processes, and between writes of progress."""


class Attendant:
    """Attends to what an execution runs, as long as the ``async with`` lasts.

    Nothing is asked of the backend while nothing runs. A cancellation in this process comes at once.
    """

    def __init__(self, backend: BaseBackend, execution: Execution) -> None:
        self._backend = backend
        self._execution = execution
        self._news = backend.wakeups.asubscribe((CANCELLATIONS,))
        self._loop = asyncio.get_running_loop()
        self._at_rest = True
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def attend(self) -> None:
        """Begin to, unless it does already: something runs."""
        if self._at_rest:
            self._at_rest = False
            self._timer = self._loop.call_later(INTERVAL, self._news.wake)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._attend(), name="sitq-attendant")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._news.wake()
        await asyncio.wait([self._task])  # not cancelled: a driver's connection does not take that well

    async def _attend(self) -> None:
        with self._news:
            while not self._stopped:
                await self._news.await_wake(None if self._at_rest else INTERVAL)
                await self.write_progress()
                await self._look()
                self._at_rest = not self._execution.tokens()

    async def write_progress(self) -> None:
        """Write the latest word of each task; if the database is away, the next word will do as well."""
        said = self._execution.progress
        reports = []
        while said:
            reports.append(said.popitem()[1])
        if reports:
            try:
                await self._backend.awrite_progress(reports)
            except Exception as exc:  # the tasks go on without
                _log_failure("progress_failed", exc)

    async def _look(self) -> None:
        tokens = self._execution.tokens()
        if tokens and not self._stopped:
            try:
                requests = await self._backend.acancel_requests(tokens)
            except Exception as exc:  # the next look will do
                _log_failure("cancellation_look_failed", exc)
                return
            for token, reason in requests.items():
                self._execution.cancel(token, reason)


def _log_failure(event: str, exc: Exception) -> None:
    fields = {"event": event, "error_type": type(exc).__qualname__}
    logger.debug("%s: %s", event.replace("_", " "), exc, extra=fields)
