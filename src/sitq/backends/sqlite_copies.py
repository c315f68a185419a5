"""Copying whole SQLite databases, page by page, with SQLite's own backup interface."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..dialect import Progress
from ..exceptions import (
    BackendError,
    DatabaseCorruptError,
    DatabaseFullError,
    DatabaseIOError,
    DatabaseLockedError,
    DatabasePermissionError,
)
from .sqlite_connections import connect
from .sqlite_errors import driver_errors, translate
from .sqlite_files import JOURNAL, LOG, SHARED_MEMORY
from .sqlite_options import SQLiteOptions

PAGES_A_STEP = 256
"""A megabyte of usual pages."""

REST = 0.002
"""Seconds between two steps of a backup, in which the disk belongs to others."""

TRY_AGAIN = 0.001
"""Seconds between two tries to take the lock of a database that is to be overwritten."""

# What goes wrong with the file that is written, not with the one that is read.
_WRITING_FAILED = (DatabaseFullError, DatabaseIOError, DatabasePermissionError)


def back_up(options: SQLiteOptions, target: Path, progress: Progress | None) -> None:
    """Write a checked copy of a database, of one moment, to a file that has its name only when it is whole."""
    require_replaceable(options, target)
    with beside(target, ".part") as part:
        copy = options.at(part, journal_mode="OFF", synchronous="OFF", read_only=False)
        with naming(target), closing(connect(copy, create=True)) as written:
            with naming(options.path):
                read = connect(options)
            with closing(read), naming(options.path, but=_WRITING_FAILED):
                copy_snapshot(read, written, progress)
            written.execute("PRAGMA journal_mode=DELETE")  # whoever opens it needs no other file beside it
            require_sound(written, f"the backup of {options.database}")
        flush(part)
        part.replace(target)
    flush(target.parent)


def copy_snapshot(read: sqlite3.Connection, written: sqlite3.Connection, progress: Progress | None) -> None:
    """Copy what a database holds at this moment, at a pace that leaves room for those who write to it."""
    # In WAL mode writers go on beside a reader; otherwise they wait for it, so it does not rest.
    logged = read.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    read.execute("BEGIN")
    read.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on nobody's write is seen
    read.backup(written, pages=PAGES_A_STEP, sleep=REST, progress=reporter(progress, REST if logged else 0.0))
    read.execute("ROLLBACK")


def overwrite(read: sqlite3.Connection, options: SQLiteOptions, progress: Progress | None) -> None:
    """Put one database's content in the place of another's in one transaction, whoever has it open."""
    with closing(connect(options)) as written:
        if not options.in_memory and options.journal_mode in ("OFF", "MEMORY"):
            written.execute("PRAGMA journal_mode=DELETE")  # else a kill in the middle would destroy both
        written.execute("PRAGMA synchronous=FULL")
        written.execute("PRAGMA busy_timeout=0")  # SQLite waits so long between tries that workers always win
        deadline = time.monotonic() + options.connection_timeout
        read.backup(written, pages=PAGES_A_STEP, sleep=TRY_AGAIN, progress=reporter(progress, 0.0, deadline))
        with contextlib.suppress(*driver_errors()):  # readers of the old content may be there still
            written.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def reporter(progress: Progress | None, rest: float, deadline: float | None = None) -> Callable[[int, int, int], None]:
    """What the driver calls after each step: reports, rests, and ends the waiting for a lock."""

    def report(status: int, remaining: int, pages: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if deadline is not None and time.monotonic() > deadline:
                raise DatabaseLockedError(
                    "the database is locked by another connection, so its content could not be replaced; "
                    "raise connection_timeout, or try when less is written"
                )
            return
        if progress is not None:
            progress(pages - remaining, pages)
        if rest and remaining:
            time.sleep(rest)

    return report


def require_sound(driver: sqlite3.Connection, name: str) -> None:
    """Raise ``DatabaseCorruptError`` unless every page and index is as it should be."""
    found = driver.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise DatabaseCorruptError(f"{name} is damaged: {found}")


def require_replaceable(options: SQLiteOptions, target: Path) -> None:
    """Refuse a folder that is missing, the database itself, and a file that has others of SQLite beside it."""
    if not target.parent.is_dir():
        raise DatabasePermissionError(f"the folder {target.parent} of the backup does not exist; make it first")
    if not options.in_memory and target.exists() and target.samefile(options.path):
        raise DatabasePermissionError(f"{target} is the database itself; give the backup another name")
    for suffix in (LOG, JOURNAL):
        left = target.with_name(target.name + suffix)
        if left.exists() and left.stat().st_size:
            raise DatabaseLockedError(
                f"{target} is in use, or was not closed: {left.name} holds changes to it; "
                f"close who uses it, or give the backup another name"
            )


@contextmanager
def beside(path: Path, suffix: str) -> Iterator[Path]:
    """Give the path of a new file in the same folder; what is there in the end is removed."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield made
    finally:
        for part in ("", JOURNAL, LOG, SHARED_MEMORY):
            made.with_name(made.name + part).unlink(missing_ok=True)


@contextmanager
def naming(path: Path, *, but: tuple[type[BackendError], ...] = ()) -> Iterator[None]:
    """Turn errors of the driver into sitq's, naming this file; those of kinds that are another's go on."""
    try:
        yield
    except driver_errors() as error:
        translation = translate(error, str(path))
        if translation is None or isinstance(translation, but):
            raise
        raise translation from error


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    if os.name == "nt" and path.is_dir():  # where folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
