"""The checks that every option in sitq goes through.

A check takes the option's name, the value and its limits; it returns the value in its plain form, or raises
``ConfigurationError`` naming the option, the value and what is allowed. ``True`` is never taken for a number.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeAlias, TypeVar

from .exceptions import ConfigurationError

T = TypeVar("T")
Seconds: TypeAlias = float | timedelta
"""A length of time as users may give it: a number of seconds, or a ``timedelta``."""

DEFAULT_QUEUE = "default"
LONGEST_NAME = 255  # what MariaDB can index
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**31), 2**31 - 1  # what an INTEGER column holds everywhere
LONGEST_TIME = 100 * 365.25 * 86400  # a hundred years: within what locks, event loops and calendars can wait for


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


def refuse(option: str, value: object, allowed: str) -> NoReturn:
    """Raise the ``ConfigurationError`` that says which option, which value, and what is allowed."""
    try:
        shown = _short.repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        shown = f"<{type(value).__name__}>"
    raise ConfigurationError(f"{option}={shown} is not allowed: give {allowed}")


def check_int(option: str, value: object, *, at_least: int = SMALLEST_INTEGER, at_most: int = LARGEST_INTEGER) -> int:
    """Return an integer within the limits, both included."""
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
        refuse(option, value, f"an integer from {at_least} to {at_most}")
    return int(value)


def check_seconds(
    option: str,
    value: object,
    *,
    at_least: float = 0.0,
    at_most: float = LONGEST_TIME,
    zero: bool = True,
) -> float:
    """Return a finite number of seconds within the limits; ``zero=False`` also refuses 0. Takes a ``timedelta`` too."""
    seconds: Any = value.total_seconds() if isinstance(value, timedelta) else value
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    # NaN is in no range, and infinity in none that ends.
    if not number or not at_least <= seconds <= at_most or not (zero or seconds):
        least = f"{at_least:g}" if zero or at_least else "more than 0"
        refuse(option, value, f"a number of seconds or a timedelta, from {least} to {at_most:g} seconds")
    return float(seconds)


def check_number(option: str, value: object, *, at_least: float, at_most: float) -> float:
    """Return a number within the limits, both included."""
    number: Any = value
    # NaN is in no range.
    if not isinstance(value, int | float) or isinstance(value, bool) or not at_least <= number <= at_most:
        refuse(option, value, f"a number from {at_least:g} to {at_most:g}")
    return float(number)


def check_bool(option: str, value: object) -> bool:
    """Return ``True`` or ``False``; nothing else will do."""
    if not isinstance(value, bool):
        refuse(option, value, "True or False")
    return value


def check_name(option: str, value: object, *, longest: int = LONGEST_NAME) -> str:
    """Return a printable text that is not blank and at most ``longest`` characters long."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > longest:
        refuse(option, value, f"a printable text of 1 to {longest} characters that is not blank")
    return str(value)


def check_names(option: str, value: object, *, longest: int = LONGEST_NAME) -> tuple[str, ...]:
    """Return one or more names, each once, in the order given. A bare text is refused, since its letters iterate."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        refuse(option, value, "a list of names")
    names = tuple(dict.fromkeys(check_name(option, name, longest=longest) for name in value))
    if not names:
        refuse(option, value, "a list with at least one name")
    return names


def check_choice(option: str, value: object, allowed: Collection[str], *, any_case: bool = False) -> str:
    """Return the allowed text that ``value`` is; with ``any_case``, ``"wal"`` is ``"WAL"``."""
    if isinstance(value, str):
        for choice in allowed:
            if value == choice or (any_case and value.casefold() == choice.casefold()):
                return str(choice)
    refuse(option, value, "one of " + ", ".join(repr(str(choice)) for choice in allowed))


def check_verbs(option: str, value: T, verbs: Iterable[str], allowed: str) -> T:
    """Return an object that has all these methods; ``allowed`` says what it should be. A class is refused."""
    missing = [verb for verb in verbs if not callable(getattr(value, verb, None))]
    if isinstance(value, type):
        refuse(option, value, f"{allowed}, and not its class")
    if missing:
        refuse(option, value, f"{allowed}; this has no {', '.join(missing)}")
    return value


def check_moment(option: str, value: object) -> datetime:
    """Return a moment in UTC; a ``datetime`` without a time zone is refused."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        refuse(option, value, "a datetime with a time zone, as datetime.now(UTC) is")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        refuse(option, value, "a moment that exists in UTC")
