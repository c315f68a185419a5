"""What went wrong in one attempt, as text that any database can keep, and the history of a task's failures.

Texts are bounded: a task that fails with a message of a gigabyte must not fill the database.
"""

from __future__ import annotations

import json
import os
import traceback
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

HISTORY_LENGTH = 10
"""The history keeps this many failures, the last ones."""

MESSAGE_LENGTH = 2_000
TRACEBACK_LENGTH = 20_000

_OWN_CODE = f"{Path(__file__).parent}{os.sep}"


class Failure(NamedTuple):
    """Why an attempt failed.

    Attributes:
        type: dotted name of the exception's class.
        message: its message.
        traceback: where it was raised, without the worker's own frames; ``None`` if that says nothing.
        kinds: dotted names of that class and of its base classes.
    """

    type: str
    message: str
    traceback: str | None = None
    kinds: tuple[str, ...] = ()


def describe(exc: BaseException) -> Failure:
    """Return what is kept of an exception."""
    return Failure(
        type=dotted_name(type(exc)),
        message=shorten(_message(exc), MESSAGE_LENGTH),
        traceback=shorten(_format(exc), TRACEBACK_LENGTH),
        kinds=dotted_names(type(exc)),
    )


def dotted_name(kind: type) -> str:
    """Return where a class is found, as ``builtins.ValueError``."""
    return storable(f"{kind.__module__}.{kind.__qualname__}")


def dotted_names(kind: type) -> tuple[str, ...]:
    """Return where a class and its base classes are found."""
    return tuple(dotted_name(each) for each in kind.__mro__)


def append_failure(errors: str | None, failure: Failure, *, attempt: int, at: datetime) -> str:
    """Return the history with one failure more: a JSON list, the oldest first, at most ``HISTORY_LENGTH`` long.

    Each entry is an object with ``attempt`` (1 for the first), ``at`` (ISO 8601), ``type``, ``message`` and
    ``traceback``. A history that cannot be read starts anew.
    """
    entry = {
        "attempt": attempt,
        "at": at.isoformat(),
        "type": failure.type,
        "message": failure.message,
        "traceback": failure.traceback,
    }
    return json.dumps([*read_failures(errors), entry][-HISTORY_LENGTH:])


def read_failures(errors: str | None) -> list[dict[str, Any]]:
    """Return the entries of a task's ``errors`` column, the oldest first; none if it holds no such list."""
    try:
        entries = json.loads(errors) if errors else []
    except ValueError:
        return []
    return entries if isinstance(entries, list) else []


def shorten(text: str, length: int) -> str:
    """Return the text, with its middle left out where it is longer than about ``length`` characters."""
    if len(text) > length:
        half = length // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
    return storable(text)


def storable(text: str) -> str:
    """Return the text without what some databases refuse: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException:  # the exception is the user's, and so is its __str__
        return "(the exception's message could not be made)"


def _format(exc: BaseException) -> str:
    try:
        return "".join(traceback.TracebackException(type(exc), exc, _user_frames(exc.__traceback__)).format())
    except BaseException:  # see _message
        return f"{dotted_name(type(exc))}: (its traceback could not be made)"


def _user_frames(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OWN_CODE):
        tb = tb.tb_next
    return tb
