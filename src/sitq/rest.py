"""What a worker waits for between two rounds: an end, news of its queues, a due time, or that it is time to look."""

from __future__ import annotations

from types import TracebackType

from .alarm import Alarm
from .backends.base import BaseBackend
from .wakeups import queue_topic

POLL, POLL_IF_HEARING = 0.2, 0.5
"""Seconds between looks for tasks unless told otherwise; the latter where the worker hears of other processes."""

BREATH = 0.02
"""Seconds without news before it asks when the next task is due: what has just been claimed begins first."""


class Rest:
    """The pauses of a worker. Made inside its event loop, and entered as long as it works.

    Args:
        backend: tells of news, and of due times.
        queues: the worker's.
        poll_interval: seconds between looks; ``None`` leaves it to how much the backend hears.
    """

    def __init__(self, backend: BaseBackend, queues: tuple[str, ...], poll_interval: float | None) -> None:
        self._wakeups = backend.wakeups
        self._told_interval = poll_interval
        self._news = backend.wakeups.asubscribe(queue_topic(queue) for queue in queues)
        self._alarm = Alarm(backend, queues, self.end)

    def __enter__(self) -> None:
        self._news.__enter__()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._news.__exit__(kind, exc, tb)

    def end(self) -> None:
        """End the pause, or the next one at once. On the worker's event loop."""
        self._news.wake()

    async def pause(self, *, polling: bool, found_less: bool) -> None:
        """Wait until something calls for a round; no longer than the interval if ``polling``.

        If the last look ``found_less`` than it asked for, it may find out when the next task becomes due.
        """
        if found_less and self._alarm.is_to_ask:
            if await self._ended(min(BREATH, self._interval)):
                return
            self._alarm.ask(self._interval)
        await self._ended(self._interval if polling else None)

    async def _ended(self, timeout: float | None) -> bool:
        """Wait for an end or for news, at most ``timeout`` seconds; say whether it came."""
        ended = await self._news.await_wake(timeout)
        if ended:
            self._alarm.note_news()
        return ended

    @property
    def _interval(self) -> float:
        return self._told_interval or (POLL_IF_HEARING if self._wakeups.hears else POLL)

    async def stop(self) -> None:
        """Ask nothing any more."""
        await self._alarm.stop()
