"""SIGINT and SIGTERM as wishes that a worker stops, each more urgent than the one before."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)

KILL_AFTER = 3.0
"""Seconds after the second signal until the process is killed, if it has not stopped by then."""


class StopSignals:
    """Within its context, the first signal calls ``stop`` on the running loop, the second ``stop_at_once``.

    After the second, the signals kill as they do by default. The handlers are those of ``signal``, not of
    the loop, so that the second signal also helps against a function that blocks the loop. Use it in the
    main thread.
    """

    def __init__(self, stop: Callable[[], None], stop_at_once: Callable[[], None]) -> None:
        self._stop = stop
        self._stop_at_once = stop_at_once
        self._received = 0
        self._loop = asyncio.get_running_loop()
        self._killer: threading.Timer | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._killer is not None:
            self._killer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self._received == 1:
            self._loop.call_soon_threadsafe(self._stop)
            return
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._killer = threading.Timer(KILL_AFTER, os.kill, (os.getpid(), number))
        self._killer.daemon = True
        self._killer.start()
        self._loop.call_soon_threadsafe(self._stop_at_once)
