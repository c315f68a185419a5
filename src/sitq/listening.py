"""Hearing what other processes have done: a thread that listens while somebody here waits for news."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection
from typing import Protocol

from .wakeups import Wakeups

logger = logging.getLogger("sitq.listening")

PATIENCE = 2.0
"""For how long a thread waits for news before it looks whether to go on, in seconds."""

LINGER = 5.0
"""For how long it stays when nobody waits any more, in seconds."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Between attempts to listen again, in seconds; doubled each time."""


class CannotListen(Exception):  # noqa: N818  # it is no error, since polling goes on
    """There is no way to listen here, and it is of no use to try again."""


class Ear(Protocol):
    """One connection over which news comes. Its methods raise whatever the driver raises."""

    def wait(self, timeout: float) -> Collection[str] | None:
        """Block until news comes, at most ``timeout`` seconds; return the topics, or ``None`` for every one."""

    def rouse(self) -> None:
        """Let a wait end that is under way, if it can be; called in another thread, and raises nothing."""

    def close(self) -> None:
        """Give the connection back. Called after an error too, and raises nothing."""


class Listener:
    """The thread: it hears while it is wanted, and listens anew when the connection drops.

    Args:
        listen: opens a connection that listens; raises ``CannotListen`` if nobody ever can here.
        wakeups: who is to be woken.
        tell: tells other processes of topics, of all if there are none; ``None`` where the commit does.
    """

    def __init__(
        self, listen: Callable[[], Ear], wakeups: Wakeups, tell: Callable[[Collection[str]], None] | None = None
    ) -> None:
        self.tell = tell
        self._listen = listen
        self._wakeups = wakeups
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._failures = 0
        self._ear: Ear | None = None
        self._is_deaf = False

    def start(self) -> None:
        """Listen, unless it does already. Returns at once."""
        with self._lock:
            if self._thread is None and not self._is_deaf:
                self._stopped.clear()
                self._thread = threading.Thread(target=self._run, name="sitq-listener", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        thread = self._thread
        self._stopped.set()
        if (ear := self._ear) is not None:
            ear.rouse()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while self._wanted():
            try:
                self._hear()
            except CannotListen as exc:
                self._is_deaf = True
                logger.debug(
                    "cannot hear of other processes, polling: %s", exc, extra={"event": "listening_impossible"}
                )
            except Exception as exc:  # whatever it is, polling goes on and so do we
                self._pause(exc)

    def _wanted(self) -> bool:
        """Whether to go on; if not, the next ``start`` makes another thread."""
        with self._lock:
            if self._ends or self._is_deaf:
                self._thread = None
                return False
        return True

    @property
    def _ends(self) -> bool:
        return self._stopped.is_set() or self._wakeups.idle_for() > LINGER

    def _hear(self) -> None:
        self._ear = ear = self._listen()
        try:
            self._failures = 0
            self._wakeups.hears = True
            self._wakeups.wake_all()  # of what happened while nobody listened
            while not self._ends:
                self._wakeups.wake(ear.wait(PATIENCE))
        finally:
            self._wakeups.hears = False
            self._ear = None
            ear.close()

    def _pause(self, exc: Exception) -> None:
        level = logging.DEBUG if self._failures else logging.WARNING
        pause = min(SHORTEST_PAUSE * 2**self._failures, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 10)
        fields = {"event": "listening_failed", "error_type": type(exc).__qualname__, "pause": pause}
        logger.log(level, "cannot hear of other processes, polling until it can: %s", exc, extra=fields)
        self._stopped.wait(pause)
