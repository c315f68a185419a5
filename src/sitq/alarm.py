"""A worker's alarm clock: it rings when the next future task becomes due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from .backends.base import BaseBackend

logger = logging.getLogger("sitq.worker")

ASK_INTERVAL = 1.0
"""Seconds after which it asks again when the next task is due, unless there was news."""


class Alarm:
    """Made and used on the worker's event loop. It rings once when it is made.

    Args:
        backend: knows when the next task is due.
        queues: the worker's.
        ring: lets the worker look for tasks.
    """

    def __init__(self, backend: BaseBackend, queues: tuple[str, ...], ring: Callable[[], None]) -> None:
        self._backend = backend
        self._queues = queues
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(0, ring)
        self._last_due: datetime | None = None
        self._ask_at = 0.0

    @property
    def is_to_ask(self) -> bool:
        """Whether it does not know by now when the next task is due."""
        return self._loop.time() >= self._ask_at and (self._asking is None or self._asking.done())

    def note_news(self) -> None:
        """There may be another next task."""
        self._ask_at = 0.0

    def ask(self, poll_interval: float) -> None:
        """Ask when the next task becomes due, and ring then if it is before the worker looks anyway."""
        self._ask_at = self._loop.time() + ASK_INTERVAL
        self._asking = self._loop.create_task(self._set(max(poll_interval, ASK_INTERVAL)))

    async def _set(self, longest: float) -> None:
        try:
            due = await self._backend.anext_due_at(self._queues)
        except Exception as exc:  # the poll comes anyway
            logger.debug("could not ask for the next due time: %s", exc, extra={"event": "alarm_failed"})
            return
        if due is None or due == self._last_due:
            return
        wait = (due - self._backend.now()).total_seconds()
        if wait <= 0:
            self._last_due = due  # once is enough: the queue may have been paused since
        if wait < longest:
            self._timer.cancel()
            self._timer = self._loop.call_later(max(wait, 0.0), self._ring)

    async def stop(self) -> None:
        """Ring no more."""
        if self._asking is not None:
            await asyncio.wait([self._asking])  # a driver's connection does not take cancellation well
        self._timer.cancel()
