"""The tasks of the benchmarks, and how a worker process tells when it began the first of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

FIRST = "SITQ_BENCHMARK_FIRST"
"""The environment variable that names a file for the time of the first call, by the clock of all processes."""

_begun = False


def note_first() -> None:
    """Write the time of this process's first call."""
    global _begun  # noqa: PLW0603  # one flag for a process is what is meant
    if not _begun:
        _begun = True
        if FIRST in os.environ:
            Path(os.environ[FIRST]).write_text(repr(time.monotonic()))


def noop(number: int) -> int:
    """Do nothing."""
    note_first()
    return number


async def anoop(number: int) -> int:
    """Do nothing, on an event loop."""
    note_first()
    return number


def compute(number: int) -> int:
    """Keep a core busy for about a millisecond."""
    note_first()
    return sum(range(40_000)) + number


TASKS = {"noop": noop, "anoop": anoop, "compute": compute}
