"""SQLite's errors, in sitq's words."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from ..exceptions import (
    BackendError,
    DatabaseCorruptError,
    DatabaseFullError,
    DatabaseIOError,
    DatabaseLockedError,
    DatabasePermissionError,
    NotADatabaseError,
)
from .sqlite_encryption import DRIVER, unreadable_with_key, unreadable_without_key

# By primary result code, https://www.sqlite.org/rescode.html
_KINDS: dict[int, tuple[type[BackendError], str]] = {
    sqlite3.SQLITE_BUSY: (
        DatabaseLockedError,
        "is locked by another connection; raise connection_timeout, or let fewer processes write",
    ),
    sqlite3.SQLITE_LOCKED: (DatabaseLockedError, "is locked by another connection of this process"),
    sqlite3.SQLITE_CORRUPT: (
        DatabaseCorruptError,
        "is damaged; restore a backup, or salvage what can be read with sitq.recover",
    ),
    sqlite3.SQLITE_NOTADB: (NotADatabaseError, "is not an SQLite database"),
    sqlite3.SQLITE_FULL: (DatabaseFullError, "cannot grow: the disk is full; make space and try again"),
    sqlite3.SQLITE_IOERR: (
        DatabaseIOError,
        "could not be read or written: check the disk, quotas, and limits on the size of files",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        DatabasePermissionError,
        "cannot be opened: check that the folder and the file exist and that this process may read and write them",
    ),
    sqlite3.SQLITE_PERM: (DatabasePermissionError, "may not be accessed by this process"),
    sqlite3.SQLITE_READONLY: (
        DatabasePermissionError,
        "may not be written: check the permissions of the file and its folder",
    ),
    sqlite3.SQLITE_AUTH: (DatabasePermissionError, "does not allow this statement to this connection"),
}


def translate(error: BaseException, database: str) -> BackendError | None:
    """Turn an error of the driver, wrapped by SQLAlchemy or not, into one of sitq's; ``None`` if it is not one."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, driver_errors()):
        return None
    if primary_code(cause) == sqlite3.SQLITE_NOTADB and (about_keys := about_key(cause, Path(database))) is not None:
        return about_keys
    kind = _KINDS.get(primary_code(cause))
    if kind is not None:
        return kind[0](f"the database {database} {kind[1]}")
    return BackendError(f"SQLite refused a statement on the database {database}: {cause}")


def about_key(error: BaseException, path: Path) -> BackendError | None:
    """What there is to say about keys where a file turned out to be no database."""
    return unreadable_without_key(path) if isinstance(error, sqlite3.Error) else unreadable_with_key(path)


def driver_errors() -> tuple[type[Exception], ...]:
    """The root of each driver's errors, as far as the drivers have been used."""
    encrypted: Any = sys.modules.get(DRIVER)
    return (sqlite3.Error,) if encrypted is None else (sqlite3.Error, encrypted.Error)


def primary_code(error: BaseException) -> int:
    """The primary result code: the low byte of the extended one; 0 if the driver gave none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
