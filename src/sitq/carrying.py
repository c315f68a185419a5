"""Bytes in, bytes out, for one part of a call; errors tell which part it was and show no value.

Arguments may be private, and errors end up in logs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .exceptions import DeserializationError, SerializationError

_OF_PYTHON = ("builtins", "pickle", "_pickle")
# What their errors say without showing a value: names of types, modules and attributes.
_HARMLESS = re.compile(
    r"cannot pickle '[\w.]+' object"
    r"|Object of type \w+ is not JSON serializable"
    r"|keys must be texts, not \w+"
    r"|No module named '[\w.]+'"
    r"|Can't get attribute '[\w.]+'(?= on <module)"
    r"|module '[\w.]+' has no attribute '\w+'"
)


class NotCarriedError(Exception):
    """A function that cannot be carried; the message shows no value."""


def write_part(part: str, write: Callable[[Any], bytes], value: object, of: object = None) -> bytes:
    """Write a part, ``of`` a function; raise ``SerializationError`` if it cannot be written."""
    try:
        return write(value)
    except Exception as exc:
        reason = reason_for(exc)
    # Outside the handler, since what was caught may show the value.
    raise SerializationError(f"{part}{'' if of is None else name_of(of)} cannot be written: {reason}")


def read_part(part: str, task_id: str, read: Callable[[bytes], Any], data: bytes) -> Any:
    """Read a part; raise ``DeserializationError`` if it cannot be read."""
    try:
        return read(data)
    except (Exception, SystemExit) as exc:  # a module may try to end the program when it is imported
        reason = reason_for(exc)
    raise DeserializationError(f"the {part} of task {task_id} cannot be read: {reason}")


def reason_for(exc: BaseException) -> str:
    """Why something cannot be carried, without a value."""
    if isinstance(exc, NotCarriedError):
        return str(exc)
    said = _HARMLESS.match(str(exc)) if type(exc).__module__ in _OF_PYTHON else None
    return f"{type(exc).__name__}: {said[0]}" if said else type(exc).__name__


def name_of(function: object) -> str:
    """A function's name, for messages."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(named, '__module__', None)}.{getattr(named, '__qualname__', type(named).__name__)}"
