"""A database's clock that can be set: all workers of a run see it ahead by what a file says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sitq
from sitq import clock

READ_EVERY = 0.1
"""Seconds between looks at a server's clock: a step is to be seen at once, not after a minute."""


def step(file: Path, seconds: float) -> None:
    """Let the clock be ahead by so much from now on."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(file)


def follow_offset(backend: sitq.BaseBackend, file: str) -> None:
    """Let the clock of this process's backend be ahead by what the file says.

    Where the clock is a server's, what is read from it is shifted; where it is this machine's, that is.
    """

    def offset() -> timedelta:
        return timedelta(seconds=float(Path(file).read_text()))

    if isinstance(backend, sitq.SQLiteBackend):
        backend.use_clock(lambda: datetime.now(UTC) + offset())
        return
    clock.READ_EVERY = READ_EVERY
    assert isinstance(backend, sitq.SQLAlchemyBackend)
    dialect = backend._database.dialect  # no verb sets a database's clock
    read = dialect.read_clock

    def read_shifted(connection: Any) -> datetime | None:
        reading = read(connection)
        return None if reading is None else reading.astimezone(UTC) + offset()

    dialect.read_clock = read_shifted  # type: ignore[method-assign]
