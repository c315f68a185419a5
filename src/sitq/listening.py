"""Hearing what other processes have done: a thread that listens while somebody here waits for news."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection
from typing import Protocol

from .wakeups import Wakeups

logger = logging.getLogger("sitq.listening")

PATIENCE = 0.25
"""For how long a thread waits for news before it looks whether to go on, in seconds."""

LINGER = 5.0
"""For how long it stays when nobody waits any more, in seconds."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Between attempts to listen again, in seconds; doubled each time."""


class Ear(Protocol):
    """One connection over which news comes. Its methods raise whatever the driver raises."""

    def wait(self, timeout: float) -> Collection[str]:
        """Block until news comes, at most ``timeout`` seconds; return the topics."""

    def close(self) -> None:
        """Give the connection back. Called after an error too, and raises nothing."""


class Listener:
    """The thread: it hears while it is wanted, and listens anew when the connection drops.

    Args:
        listen: opens a connection that listens.
        wakeups: who is to be woken.
    """

    def __init__(self, listen: Callable[[], Ear], wakeups: Wakeups) -> None:
        self._listen = listen
        self._wakeups = wakeups
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._failures = 0

    def start(self) -> None:
        """Listen, unless it does already. Returns at once."""
        with self._lock:
            if self._thread is None:
                self._stopped.clear()
                self._thread = threading.Thread(target=self._run, name="sitq-listener", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        thread = self._thread
        self._stopped.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while self._wanted():
            try:
                self._hear()
            except Exception as exc:  # whatever it is, polling goes on and so do we
                self._pause(exc)

    def _wanted(self) -> bool:
        """Whether to go on; if not, the next ``start`` makes another thread."""
        with self._lock:
            if self._stopped.is_set() or self._wakeups.idle_for() > LINGER:
                self._thread = None
                return False
        return True

    def _hear(self) -> None:
        ear = self._listen()
        try:
            self._failures = 0
            self._wakeups.notify_all()  # of what happened while nobody listened
            while not (self._stopped.is_set() or self._wakeups.idle_for() > LINGER):
                self._wakeups.notify(ear.wait(PATIENCE))
        finally:
            ear.close()

    def _pause(self, exc: Exception) -> None:
        level = logging.DEBUG if self._failures else logging.WARNING
        pause = min(SHORTEST_PAUSE * 2**self._failures, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 10)
        fields = {"event": "listening_failed", "error_type": type(exc).__qualname__, "pause": pause}
        logger.log(level, "cannot hear of other processes, polling until it can: %s", exc, extra=fields)
        self._stopped.wait(pause)
