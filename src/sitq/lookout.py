"""The lookout: a thread that notices workers of this machine that have died, and tasks that must run alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from .backends.base import BaseBackend
from .presence import Presence

logger = logging.getLogger("sitq.worker")

LOOK_INTERVAL = 0.5
"""Seconds between looks at the other workers of this machine; none of them asks the database."""

LOOKS_A_QUESTION = 2
"""After so many looks a busy worker asks the database whether tasks wait that must run alone."""


class Lookout:
    """Puts back what dead workers ran, and tells the worker of tasks that must run alone.

    ``busy`` says whether the worker runs anything; while it does not, its claims tell it of such tasks.
    ``on_isolated`` is told whether any wait. Both are called in the lookout's thread.
    """

    def __init__(
        self,
        backend: BaseBackend,
        presence: Presence,
        *,
        queues: Sequence[str],
        busy: Callable[[], bool],
        on_isolated: Callable[[bool], None],
    ) -> None:
        self._backend = backend
        self._presence = presence
        self._queues = queues
        self._busy = busy
        self._on_isolated = on_isolated
        self._seen_waiting = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sitq-lookout", daemon=True)

    def start(self) -> None:
        """Let it look, at once and from then on."""
        self._thread.start()

    def stop(self) -> None:
        """Let it end after the look that it is in."""
        self._stopped.set()

    def join(self, timeout: float | None = None) -> None:
        """Block until it has ended."""
        self._thread.join(timeout)

    def _run(self) -> None:
        looks = 0
        while True:
            try:
                self._look(asks=looks % LOOKS_A_QUESTION == 0)
            except Exception as exc:  # whatever is wrong with the database, the next look tries again
                fields = {"event": "lookout_failed", "error_type": type(exc).__qualname__}
                logger.debug("lookout failed, trying again: %s", exc, extra=fields)
            if self._stopped.wait(LOOK_INTERVAL):
                return
            looks += 1

    def _look(self, *, asks: bool) -> None:
        self._presence.show()
        with self._presence.dead_workers() as dead:
            reaped = self._reap(dead) if dead else False
        if reaped:
            self._seen_waiting = 1
            self._on_isolated(True)
        elif asks and self._busy():
            self._ask()

    def _reap(self, dead: list[str]) -> bool:
        task_ids: list[str] = []
        while some := self._backend.reap_workers(dead):
            task_ids += some
        fields = {"event": "workers_died", "worker_ids": dead, "task_ids": task_ids}
        logger.warning("workers of this machine died, their tasks are put back", extra=fields)
        return bool(task_ids)

    def _ask(self) -> None:
        """Tell the worker of what it sees twice: workers that run nothing come first."""
        waiting = self._backend.isolated_waiting(self._queues)
        self._seen_waiting = self._seen_waiting + 1 if waiting else 0
        self._on_isolated(self._seen_waiting > 1)
