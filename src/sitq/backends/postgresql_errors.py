"""PostgreSQL's errors, in sitq's words: by SQLSTATE, as its manual lists them in an appendix."""

from __future__ import annotations

from typing import Any

from ..exceptions import (
    BackendError,
    DatabaseCorruptError,
    DatabaseFullError,
    DatabaseLockedError,
    DatabasePermissionError,
    DatabaseUnavailableError,
)

LOST_RACES = ("40001", "40P01")
"""Serialization failure, deadlock: rolled back, and worth another try."""

# A class of states is its first two characters.
_KINDS: dict[str, tuple[type[BackendError], str]] = {
    "08": (DatabaseUnavailableError, "cannot be reached"),
    "57P": (DatabaseUnavailableError, "cannot be reached"),
    "25P03": (DatabaseUnavailableError, "has ended a transaction that stood still"),
    "25006": (DatabaseUnavailableError, "is on a server that only reads, as a standby does"),
    "53300": (
        DatabaseUnavailableError,
        "has no connection free; raise max_connections, or let fewer processes connect",
    ),
    "40001": (DatabaseLockedError, "gave other transactions precedence each time"),
    "40P01": (DatabaseLockedError, "gave other transactions precedence each time"),
    "55P03": (
        DatabaseLockedError,
        "has rows that another transaction holds locked; end it, or raise connection_timeout",
    ),
    "28": (DatabasePermissionError, "does not let this user in"),
    "42501": (DatabasePermissionError, "does not allow this statement to this user"),
    "53100": (DatabaseFullError, "cannot grow: the disk is full; make space and try again"),
    "XX001": (DatabaseCorruptError, "is damaged; restore a backup"),
    "XX002": (DatabaseCorruptError, "has a damaged index; rebuild it with REINDEX"),
}


def translate(error: BaseException, target: str) -> BackendError:
    """Turn what a driver raised into one of sitq's errors."""
    state = sqlstate(error)
    for prefix in (state, state[:3], state[:2]):
        if prefix in _KINDS:
            kind, words = _KINDS[prefix]
            return kind(f"the database {target} {words}: {message(error)}")
    if not state and type(error).__name__ in ("OperationalError", "InterfaceError"):
        # What libpq says when it gets no connection has no state.
        return DatabaseUnavailableError(f"the database {target} cannot be reached: {message(error)}")
    return BackendError(f"PostgreSQL refused a statement on the database {target}: {message(error)}")


def sqlstate(error: BaseException) -> str:
    """The five characters; empty if the driver gave none."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def message(error: BaseException) -> str:
    """What the server said, without the detail that may quote a row."""
    diagnostics: Any = getattr(error, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    return str(primary or str(error).strip().partition("\n")[0] or type(error).__name__)
