"""The heartbeat: a thread that keeps a worker's claims alive and puts lapsed ones of others back.

It has a thread of its own, so that a function which blocks the event loop does not cost the worker its claims.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .backends.base import BaseBackend
from .claims import Token

logger = logging.getLogger("sitq.worker")

BEATS_PER_LEASE = 3
RETRIES_PER_BEAT = 10


class Heartbeat:
    """Extends and reaps, a few times in every lease.

    ``tokens`` says which claims to extend; ``on_lost`` gets those that no longer hold. Both are called in
    the heartbeat's thread.
    """

    def __init__(
        self,
        backend: BaseBackend,
        *,
        lease: float,
        tokens: Callable[[], list[Token]],
        on_lost: Callable[[list[Token]], None],
    ) -> None:
        self._backend = backend
        self._lease = lease
        self._tokens = tokens
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sitq-heartbeat", daemon=True)

    def start(self) -> None:
        """Let it beat, at once and from then on."""
        self._thread.start()

    def stop(self) -> None:
        """Let it end after the beat that it is in."""
        self._stopped.set()

    def join(self, timeout: float | None = None) -> None:
        """Block until it has ended."""
        self._thread.join(timeout)

    def _run(self) -> None:
        interval = self._lease / BEATS_PER_LEASE
        healthy = self._beat()
        while not self._stopped.wait(interval if healthy else interval / RETRIES_PER_BEAT):
            healthy = self._beat()

    def _beat(self) -> bool:
        try:
            # Only after extending: a worker that slept too long must not reap what it still runs.
            self._extend_surely()
            self._reap()
        except Exception as exc:  # whatever is wrong with the database, the next beat tries again
            fields = {"event": "heartbeat_failed", "error_type": type(exc).__qualname__}
            logger.warning("heartbeat failed, trying again: %s", exc, extra=fields)
            return False
        return True

    def _extend_surely(self) -> None:
        """Extend, and once more if the database's clock was read anew meanwhile: by the old one leases may be over."""
        ahead = self._ahead()
        self._extend()
        if abs(self._ahead() - ahead) > self._lease / BEATS_PER_LEASE:
            self._extend()

    def _ahead(self) -> float:
        return self._backend.now().timestamp() - time.monotonic()

    def _extend(self) -> None:
        tokens = self._tokens()
        if tokens:
            held = self._backend.extend(tokens, self._lease)
            lost = [token for token, holds in zip(tokens, held, strict=True) if not holds]
            if lost:
                self._on_lost(lost)

    def _reap(self) -> None:
        reaped = self._backend.reap()
        if reaped:
            logger.warning("lapsed tasks put back", extra={"event": "tasks_reaped", "task_ids": reaped})
