"""Another key for an SQLite file: written anew beside it, then put in its place in one step."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from ..exceptions import ConfigurationError, DatabaseLockedError
from ..secret import Secret
from .sqlite_connections import connect, insist, open_driver
from .sqlite_copies import beside, flush, naming, require_sound
from .sqlite_encryption import EncryptionKey, check_key, open_locked
from .sqlite_options import SQLiteOptions


def rekey(options: SQLiteOptions, new_key: Secret | None) -> SQLiteOptions:
    """Encrypt with another key, or decrypt; return the options that the file needs from now on."""
    key = None if new_key is None else check_key("new_key", new_key)
    if options.in_memory:
        raise ConfigurationError("a database in ':memory:' is never on a disk, so there is nothing to encrypt")
    with beside(options.path, ".rekeying") as part, naming(options.path):
        leave_log(options)
        # The lock is held until the new file is in place, so that nobody writes to the old one.
        with open_alone(options) as old:
            part.touch()
            part.chmod(options.path.stat().st_mode)
            export(old, part, key)
            look_over(options.at(part, key=key, journal_mode="DELETE", synchronous="FULL"))
            flush(part)
            if os.name == "nt":  # where a file that is open cannot be replaced
                old.close()
            part.replace(options.path)
        flush(options.path.parent)
    return replace(options, key=key)


def leave_log(options: SQLiteOptions) -> None:
    """Fold the write-ahead log into the file, which SQLite does only for the one who has it open alone."""
    with closing(connect(options)) as driver, alone(options):
        insist(driver, "PRAGMA journal_mode=DELETE", options)


@contextmanager
def open_alone(options: SQLiteOptions) -> Iterator[sqlite3.Connection]:
    """Open the database with SQLCipher, plain or not, and keep everybody out."""
    with closing(open_locked(options.uri()) if options.key is None else open_driver(options)) as driver:
        driver.execute("PRAGMA locking_mode=EXCLUSIVE")
        with alone(options):
            insist(driver, "BEGIN EXCLUSIVE", options)
        driver.execute("COMMIT")
        yield driver


@contextmanager
def alone(options: SQLiteOptions) -> Iterator[None]:
    """Say who is in the way, if somebody has the lock."""
    try:
        with naming(options.path):
            yield
    except DatabaseLockedError as error:
        raise DatabaseLockedError(
            f"the database {options.path} is open elsewhere, and cannot get another key: "
            f"close every other backend and process that uses it"
        ) from error


def export(old: sqlite3.Connection, part: Path, key: EncryptionKey | None) -> None:
    """Write everything to a new file under the new key."""
    old.execute("ATTACH DATABASE ? AS made KEY ?", (str(part), "" if key is None else key.reveal_for_new()))
    old.execute("SELECT sqlcipher_export('made')").fetchall()
    old.execute("DETACH DATABASE made")


def look_over(options: SQLiteOptions) -> None:
    """Open the new file as it will be opened, and require that it is sound."""
    with closing(connect(options)) as driver:
        require_sound(driver, f"the copy of {options.path}")
