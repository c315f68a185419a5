"""When a worker runs the tasks that must run alone: it empties itself for them, but not all the time. Pure."""

from __future__ import annotations

from .claims import IsolatedTasks

FIRST_PATIENCE = 5.0
"""Seconds that a worker waits at first to become empty; what it runs may take longer."""


class Isolation:
    """Says before each claim what to do about tasks that must run alone. Times are those of one steady clock.

    Other tasks get as much time as those took that ran alone, together with the wait before them. A worker that
    does not become empty in time goes on with other tasks for as long, and waits twice as long the next time:
    so in the end it becomes empty, and what it cannot do in the meantime is bounded.
    """

    def __init__(self) -> None:
        self._waiting = False
        self._began: float | None = None
        self._rest_until = 0.0
        self._patience = FIRST_PATIENCE
        self._alone = False

    def notice(self, waiting: bool) -> None:
        """Note whether such tasks wait."""
        self._waiting = waiting

    def choose(self, now: float, *, running: int) -> IsolatedTasks | None:
        """Say what to claim; ``None`` is nothing at all."""
        if running == 0:
            return self._choose_when_empty(now)
        if self._alone:
            return None
        if not self._waiting or now < self._rest_until:
            return IsolatedTasks.NONE
        return self._wait_to_become_empty(now)

    def claimed(self, now: float, *, alone: bool, asked: IsolatedTasks) -> None:
        """Note what a claim gave."""
        self._alone = alone
        if alone:
            self._began = now if self._began is None else self._began
        elif asked is IsolatedTasks.FIRST:
            self._waiting, self._began = False, None

    def _choose_when_empty(self, now: float) -> IsolatedTasks:
        if self._alone:
            self._rest(now)
            self._patience = FIRST_PATIENCE
            self._alone = False
        return IsolatedTasks.FIRST if self._waiting and now >= self._rest_until else IsolatedTasks.LAST

    def _wait_to_become_empty(self, now: float) -> IsolatedTasks | None:
        self._began = now if self._began is None else self._began
        if now - self._began < self._patience:
            return None
        self._rest(now)
        self._patience *= 2
        return IsolatedTasks.NONE

    def _rest(self, now: float) -> None:
        began = now if self._began is None else self._began
        self._rest_until, self._began = 2 * now - began, None
