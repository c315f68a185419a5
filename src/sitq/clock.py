"""The clock that leases follow: a database server's, read now and then and carried on in between.

Workers on several hosts then agree about the time, whatever their own clocks say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

READ_EVERY = 60.0  # seconds
READINGS = 3  # of which the quickest answer counts
JUMP = 0.5  # seconds by which this machine's clock may leave its own steady count before the server is asked again


class Clock:
    """A clock that was read somewhere else; until it was, this machine's."""

    def __init__(self) -> None:
        self._reading: datetime | None = None
        self._read_at = 0.0
        self._local_at = 0.0

    def now(self) -> datetime:
        """The time there, aware and in UTC."""
        if self._reading is None:
            return datetime.now(UTC)
        return self._reading + timedelta(seconds=time.monotonic() - self._read_at)

    @property
    def is_stale(self) -> bool:
        """Whether what was read should be read again: time has passed, or this machine slept or was set."""
        if self._reading is None:
            return False
        steady, local = time.monotonic() - self._read_at, time.time() - self._local_at
        return steady > READ_EVERY or abs(local - steady) > JUMP

    def set_by(self, read: Callable[[], datetime | None]) -> None:
        """Read the clock there a few times, and take it that the answer was half of the way; ``None`` ends it."""
        best = float("inf")
        for _ in range(READINGS):
            asked = time.monotonic()
            reading = read()
            answered = time.monotonic()
            if reading is None:
                return
            if answered - asked < best:
                best = answered - asked
                self._reading, self._read_at = reading.astimezone(UTC), asked + best / 2
        self._local_at = time.time() - (time.monotonic() - self._read_at)
