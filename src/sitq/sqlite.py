"""Safe transactions on an SQLite engine of the app's own.

SQLite has one writer at a time. A transaction that reads first and writes later fails at once if another has
written in between, whatever the timeout; and the driver of Python begins transactions late, so that savepoints
and reads are not part of them. ``configure`` ends both.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from .exceptions import ConfigurationError
from .options import Seconds, check_seconds

AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)

READS: Final = "sitq_reads"
"""The execution option of transactions that only read, and so need not wait for the write lock."""

_READY = "sitq_configured"
_timeouts: WeakKeyDictionary[Dialect, int] = WeakKeyDictionary()
"""The busy timeout of what is configured, in milliseconds. Engines that share a pool share their dialect."""


def configure(engine: AnyEngine, *, busy_timeout: Seconds = 30.0) -> AnyEngine:
    """Let every transaction of an SQLite engine take the write lock when it begins; return the engine.

    It then waits for its turn instead of failing later, its reads and savepoints belong to it, and the file
    uses a write-ahead log, so that readers and the writer do not wait for each other. What only reads should say
    so, since it would wait for the writers otherwise: ``engine.execution_options(sitq_reads=True)`` gives an
    engine for it that shares the pool, and ``session.connection(execution_options={"sitq_reads": True})`` begins
    one such transaction. Transactions at the isolation level ``AUTOCOMMIT`` are left alone.

    Call it before the engine is used, and begin no transactions by an event of your own. Calling it again only
    changes the timeout, of connections that are opened from then on.

    Args:
        engine: an ``Engine`` or an ``AsyncEngine``.
        busy_timeout: for how long a transaction waits for the write lock, in seconds or as a ``timedelta``.

    Raises:
        ConfigurationError: the engine is for another kind of database, or the timeout cannot be.
    """
    if not isinstance(engine, Engine | AsyncEngine):
        raise ConfigurationError(f"configure takes an Engine or an AsyncEngine, not {type(engine).__name__}")
    if engine.dialect.name != "sqlite":
        raise ConfigurationError(f"configure takes an engine for SQLite, not for {engine.dialect.name}")
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    _timeouts[sync.dialect] = round(check_seconds("busy_timeout", busy_timeout, at_most=1e6) * 1000)
    if not event.contains(sync, "begin", begin):
        event.listen(sync, "begin", begin)
    return engine


def begin(connection: Connection) -> None:
    """Begin a transaction of a configured engine."""
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    let_begin(connection)
    connection.exec_driver_sql("BEGIN" if options.get(READS) else "BEGIN IMMEDIATE")


def let_begin(connection: Connection) -> None:
    """See to it that the driver begins nothing by itself, and that its connection is set up."""
    driver: Any = connection.connection.dbapi_connection
    if driver.isolation_level is not None:  # at first, and whenever SQLAlchemy has reset it
        driver.isolation_level = None
    if connection.info.get(_READY):
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout={_timeouts[connection.dialect]}")
    # While others write, SQLite does not wait to change the mode: then another connection does.
    with suppress(OperationalError):
        connection.info[_READY] = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar() in ("wal", "memory")
