"""Connections to SQLite below SQLAlchemy: how each is set up, and how one takes the write lock."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection

from .sqlite_access import restrict
from .sqlite_encryption import connect_encrypted
from .sqlite_errors import driver_errors, primary_code
from .sqlite_options import SQLiteOptions

if TYPE_CHECKING:
    import aiosqlite

logger = logging.getLogger("sitq.sqlite")

# Between tries to take a lock, in seconds. SQLite's own backoff sleeps up to 100 ms and starves writers.
PAUSES, LATER_PAUSES = (0.00005, 0.0003), (0.0002, 0.001)

SOON = 50
"""So many tries follow each other quickly: most who hold the lock commit within some milliseconds."""


def connect(options: SQLiteOptions, *, create: bool = False, alter: bool = True) -> sqlite3.Connection:
    """Open a connection and make it what the options say. The file must exist, unless ``create`` is given.

    With ``alter=False`` the file's journal mode, which is kept in the file, stays as it is.
    """
    options.access.require("initialize")
    driver = open_driver(options, create=create)
    try:
        set_up(driver, options, alter=alter)
        restrict(driver, options.access)
    except BaseException:
        driver.close()
        raise
    return driver


async def aconnect(connect: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Open a connection in a thread of aiosqlite's, which ends with the process."""
    import aiosqlite

    connection = aiosqlite.Connection(connect, iter_chunk_size=64)
    connection._thread.daemon = True
    try:
        return await connection
    except BaseException:
        # The thread ends by itself, but not without a word to the event loop, which may be closed by then.
        await asyncio.to_thread(connection._thread.join)
        raise


def roll_back_first(adapted: Any, *_: object) -> None:
    """Before a connection over aiosqlite is closed, since a statement on it was broken off: end its transaction.

    SQLite keeps such a connection open, with its lock, for as long as anything refers to the statement, which may be
    until the garbage collector comes by.
    """
    connection: aiosqlite.Connection = adapted.driver_connection
    driver = connection._connection
    if driver is not None:
        connection._tx.put_nowait((None, driver.rollback))


def open_driver(options: SQLiteOptions, *, create: bool = False) -> sqlite3.Connection:
    """Open a connection of the driver that the file needs, with its key. It begins no transactions of its own."""
    uri = options.uri(create=create)
    if options.key is None:
        return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    driver: sqlite3.Connection = connect_encrypted(
        uri, options.path, options.key, options.connection_timeout, found=not options.read_only
    )
    return driver


def set_up(driver: sqlite3.Connection, options: SQLiteOptions, *, alter: bool) -> None:
    """Set the pragmas of a new connection."""
    pragmas = options.pragmas()
    journal_mode = pragmas.pop("journal_mode", None)
    for name, value in pragmas.items():
        driver.execute(f"PRAGMA {name}={value}")
    if alter and journal_mode is not None:
        # SQLite's busy timeout does not cover a change of the mode while others change it too.
        insist(driver, f"PRAGMA journal_mode={journal_mode}", options)


def begin_immediate(driver: sqlite3.Connection, options: SQLiteOptions) -> None:
    """Take the write lock, trying often, for as long as ``connection_timeout``."""
    insist(driver, "BEGIN IMMEDIATE", options)


def abegin_immediate(connection: Connection, options: SQLiteOptions) -> None:
    """The same over aiosqlite, in the thread of its connection."""
    adapted: Any = connection.connection.dbapi_connection
    adapted.run_async(lambda driver: driver._execute(begin_immediate, driver._conn, options))


def insist(driver: sqlite3.Connection, statement: str, options: SQLiteOptions) -> None:
    """Execute a statement that needs a lock, trying often, for as long as ``connection_timeout``."""
    be_impatient(driver)
    try:
        try_long(driver, statement, options)
    finally:
        driver.execute(f"PRAGMA busy_timeout={options.busy_timeout}")


def be_impatient(driver: sqlite3.Connection) -> None:
    """Let a statement fail at once where another has the lock."""
    driver.execute("PRAGMA busy_timeout=0")


def try_long(driver: sqlite3.Connection, statement: str, options: SQLiteOptions) -> None:
    """Execute a statement on an impatient connection, trying often, for as long as ``connection_timeout``."""
    deadline, tries = time.monotonic() + options.connection_timeout, 1
    while not try_once(driver, statement, deadline):
        time.sleep(random.uniform(*(PAUSES if tries <= SOON else LATER_PAUSES)))
        tries += 1


def try_once(driver: sqlite3.Connection, statement: str, deadline: float) -> bool:
    """Say whether the lock was free; raise the driver's error once the deadline has passed."""
    try:
        driver.execute(statement)
    except driver_errors() as error:
        if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
            raise
        return False
    return True


def fold_log(driver: Any, options: SQLiteOptions) -> None:
    """Fold the write-ahead log into the file; if there is no room, it stays beside it and nothing is lost."""
    try:
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except driver_errors() as error:
        fields = {"event": "log_not_folded", "database": options.database}
        logger.warning("the write-ahead log stays beside the file: %s", error, extra=fields)


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's connection below a SQLAlchemy one; SQLCipher's has the same methods."""
    driver: Any = connection.connection.dbapi_connection
    return cast(sqlite3.Connection, driver)
