"""Threads of the worker's own, in which sync functions run.

Made for many short functions: handing work over costs a microsecond, and what has ended comes back to the
event loop in batches, so that a thousand ends do not wake it a thousand times.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

Then: TypeAlias = Callable[[], None]
"""What is to be done on the event loop when the work has ended."""

Work: TypeAlias = Callable[[], Then]
"""What is to be done in a thread. It never raises."""


def let_threads_run(seconds: float) -> None:
    """Leave the interpreter to other threads: one that goes on at once gets it back before they have woken up."""
    time.sleep(seconds)


class TaskThreads:
    """As many threads as there was work at once; daemons, so that a hung function lets the program end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[Work | None] = SimpleQueue()
        self._ended: deque[Then] = deque()
        self._called = False
        self._busy = 0
        self._started = 0

    def submit(self, work: Work) -> None:
        """Let a thread do this. Call it on the event loop.

        Raises ``RuntimeError`` if there is no thread and the operating system gives none.
        """
        if self._busy >= self._started:
            self._start_another()
        self._busy += 1
        self._waiting.put(work)

    def close(self) -> None:
        """Let each thread end after the work that it has."""
        for _ in range(self._started):
            self._waiting.put(None)

    def _start_another(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"sitq-task-{self._started + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if self._started == 0:
                raise
            # Otherwise those there are do this work too, when they come to it.
        else:
            self._started += 1

    def _serve(self) -> None:
        while (work := self._waiting.get()) is not None:
            self._ended.append(work())
            del work  # its arguments need not live until the next work comes
            if not self._called:
                self._called = True
                self._call_loop()

    def _call_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop has been closed, and nobody waits for this end
            self._ended.clear()

    def _deliver(self) -> None:
        self._called = False  # first, so that what ends from here on calls again
        while self._ended:
            self._busy -= 1
            self._ended.popleft()()
