"""MariaDB's and MySQL's errors, in sitq's words: by the number that the server or the client gave."""

from __future__ import annotations

from ..exceptions import (
    BackendError,
    DatabaseCorruptError,
    DatabaseFullError,
    DatabaseLockedError,
    DatabasePermissionError,
    DatabaseUnavailableError,
)

LOST_RACES = (1213, 1020, 1305)
"""Deadlock, and a row that has changed since it was read: rolled back, and worth another try.

A savepoint that does not exist is a deadlock too: it went with the transaction that it was in.
"""

_KINDS: list[tuple[tuple[int, ...], type[BackendError], str]] = [
    ((1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1927), DatabaseUnavailableError, "cannot be reached"),
    ((2002, 2003, 2005, 2006, 2013, 2014, 2045, 2055, 4031), DatabaseUnavailableError, "cannot be reached"),
    (
        (1040, 1203, 1226),
        DatabaseUnavailableError,
        "has no connection free; raise max_connections, or let fewer processes connect",
    ),
    ((1290, 1792, 1836), DatabaseUnavailableError, "is on a server that only reads, as a replica does"),
    ((1213, 1020), DatabaseLockedError, "gave other transactions precedence each time"),
    (
        (1205, 3572),
        DatabaseLockedError,
        "has rows that another transaction holds locked; end it, or raise connection_timeout",
    ),
    ((1044, 1045, 1698), DatabasePermissionError, "does not let this user in"),
    ((1142, 1143, 1227, 1370), DatabasePermissionError, "does not allow this statement to this user"),
    ((1021, 1114), DatabaseFullError, "cannot grow: the disk is full; make space and try again"),
    ((1034, 1035, 1194, 1195, 1712), DatabaseCorruptError, "is damaged; restore a backup"),
]
_BY_NUMBER = {number: (kind, words) for numbers, kind, words in _KINDS for number in numbers}


def translate(error: BaseException, target: str) -> BackendError:
    """Turn what a driver raised into one of sitq's errors."""
    number = errno(error)
    if number in _BY_NUMBER:
        kind, words = _BY_NUMBER[number]
        return kind(f"the database {target} {words} (error {number})")
    # The text of errors about data quotes it.
    shown = message(error) if number in TELLING else f"error {number}"
    return BackendError(f"the server refused a statement on the database {target}: {shown}")


TELLING = (1049, 1054, 1064, 1115, 1146, 1153, 1193, 1231)
"""Errors whose text names what is missing or wrong, and quotes no row."""


def errno(error: BaseException) -> int:
    """The number; 0 if the driver gave none."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def message(error: BaseException) -> str:
    """What the server said."""
    return str(error.args[1]) if len(error.args) > 1 else type(error).__name__
