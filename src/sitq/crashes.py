"""The crash rule: what becomes of a task whose worker died while it ran. Pure."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

DEFAULT_MAX_CRASHES = 3
"""After so many crashes while it ran alone a task fails, unless it says otherwise."""


class AfterCrash(NamedTuple):
    """What becomes of a task after a crash.

    Attributes:
        crash_count: the task's ``crash_count`` from now on.
        failure: why it has failed; ``None`` if it is to run again, alone.
        message: what its history says of the crash.
    """

    crash_count: int
    failure: str | None
    message: str


def after_crash(options: str | None, *, isolated: bool, crash_count: int) -> AfterCrash:
    """Say what becomes of a task whose worker died while it ran.

    A worker that runs several tasks may have died of any of them, so that crash counts for none; each of them
    runs again alone, and what happens then is its own doing.

    Args:
        options: the task's ``options`` column: JSON with ``max_crashes`` and ``on_crash``, or ``None``.
        isolated: whether the task ran alone.
        crash_count: the crashes while it ran alone, before this one.
    """
    given = read_options(options)
    if given.get("on_crash") == "fail":
        message = "its worker died while it ran, and on_crash='fail' lets it not run again"
        return AfterCrash(crash_count + isolated, message, message)
    if not isolated:
        return AfterCrash(crash_count, None, "its worker died while it ran; it runs again, alone")
    limit = given.get("max_crashes", DEFAULT_MAX_CRASHES)  # 0 is none
    count = crash_count + 1
    if limit and count >= limit:
        times = "once" if count == 1 else f"{count} times"
        message = f"its worker died {times} while it ran alone (max_crashes={limit})"
        return AfterCrash(count, message, message)
    return AfterCrash(count, None, "its worker died while it ran alone; it runs again, alone")


def read_options(options: str | None) -> dict[str, Any]:
    """The options that travel with a task; none if the column holds no JSON object."""
    try:
        given = json.loads(options) if options else {}
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}
