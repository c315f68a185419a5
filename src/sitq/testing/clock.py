"""A clock for tests: it stands still until the test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class MovableClock:
    """What ``backend.use_clock`` takes: the time is what the test says it is.

    A test of what happens in an hour then takes no hour::

        clock = MovableClock()
        backend.use_clock(clock)
        queue.options(delay=3600).enqueue(send)
        clock.move(3600)

    Args:
        at: where it stands at first, aware; at the present time unless given.
    """

    def __init__(self, at: datetime | None = None) -> None:
        self._at = (datetime.now(UTC) if at is None else at).astimezone(UTC)

    def __call__(self) -> datetime:
        """Return the time, aware and in UTC."""
        return self._at

    def move(self, by: float | timedelta) -> None:
        """Go forward by so many seconds, or back if they are negative."""
        self._at += by if isinstance(by, timedelta) else timedelta(seconds=by)
