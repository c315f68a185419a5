"""SQLite by a URL, or over an engine that an app lends and goes on to use in its own way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, Insert, StaticPool, TableClause, event
from sqlalchemy.ext.asyncio import AsyncEngine

from ..access import check_access
from ..dialect import Dialect
from ..exceptions import BackendError, ConfigurationError, NotAvailableError
from ..models import Models
from .addresses import leads_to
from .sources import EngineSource, FromURL
from .sqlite import WRITES, SQLiteDialect
from .sqlite_errors import translate
from .sqlite_joining import explain_locks, file_of
from .sqlite_options import SQLiteOptions, check_database, new_memory_name


class LentSQLiteDialect(Dialect):
    """How an app's engine is written without a change to the app's own transactions.

    Queue writes take the write lock when they begin, on a connection of their own. With ``StaticPool`` there
    is but one connection, which is then used between the app's transactions.
    """

    borrows_engines = has_one_writer = True

    def __init__(self, source: EngineSource) -> None:
        self.source = source
        self.has_sync_driver = source.has_sync_driver
        self.has_async_driver = self.reads_on_loops = source.has_async_driver

    @staticmethod
    def insert_if_free(table: TableClause) -> Insert:
        return SQLiteDialect.insert_if_free(table)

    @staticmethod
    def insert_or_replace(table: TableClause, key: str) -> Insert:
        return SQLiteDialect.insert_or_replace(table, key)

    def create_engine(self) -> Engine:
        return self.source.create_engine(no_keywords)

    def create_async_engine(self) -> AsyncEngine:
        return self.source.create_async_engine(no_keywords)

    def create_private_engine(self) -> AsyncEngine:
        return self.source.create_private_engine(no_keywords)

    def connect_to_write(self, engine: Engine) -> Connection:
        connection = connect_for_writing(engine)
        if not isinstance(engine.pool, StaticPool):
            connection.detach()
            execute(connection, f"PRAGMA busy_timeout={self._busy_timeout}")
        return connection

    def engine_for_tasks(self, engine: Engine) -> Engine:
        if isinstance(engine.pool, StaticPool):
            raise NotAvailableError(
                "a transactional task needs a connection of its own, and an engine with StaticPool has but one: "
                "give a pool that opens more, or SQLiteBackend(':memory:')"
            )
        facade = engine.execution_options(**{WRITES: True})

        def begin(connection: Connection) -> None:
            found = execute(connection, "PRAGMA busy_timeout")
            execute(connection, f"PRAGMA busy_timeout={self._busy_timeout}")
            try:
                take_write_lock(connection)
            finally:
                execute(connection, f"PRAGMA busy_timeout={found}")

        event.listen(facade, "begin", begin)
        return facade

    @property
    def _busy_timeout(self) -> int:
        return round(self.source.connection_timeout * 1000)  # milliseconds

    @contextmanager
    def lock_schema(self, engine: Engine) -> Iterator[Connection]:
        # As sitq.schema wants it, and afterwards as the app had it.
        wanted = {"foreign_keys": 0, "legacy_alter_table": 1, "busy_timeout": self._busy_timeout}
        with connect_for_writing(engine) as connection:
            found = {name: execute(connection, f"PRAGMA {name}") for name in wanted}
            set_all(connection, wanted)
            try:
                with connection.begin():
                    yield connection
            finally:
                set_all(connection, found)

    def is_reached_by(self, engine: Engine) -> bool:
        return leads_to(self.source, engine, file_of)

    def join(self, engine: Engine, models: Models) -> None:
        explain_locks(engine, models)

    def translate(self, error: BaseException) -> BackendError | None:
        return translate(error, self.source.target)


def no_keywords(url: object) -> dict[str, Any]:
    """The keywords of the app's driver are the app's."""
    return {}


def connect_for_writing(engine: Engine) -> Connection:
    """Connect through a facade of the engine, which shares its pool and has events of its own."""
    facade = engine.execution_options(**{WRITES: True})
    event.listen(facade, "begin", take_write_lock)
    return facade.connect()


def take_write_lock(connection: Connection) -> None:
    """Begin so that a read at the start of the transaction cannot turn out to be too old to write upon."""
    adapted: Any = connection.connection.dbapi_connection
    if getattr(
        adapted, "driver_connection", adapted
    ).in_transaction:  # which the driver, or an event of the app's, has begun in its own way
        execute(connection, "ROLLBACK")
    execute(connection, "BEGIN IMMEDIATE")


def set_all(connection: Connection, pragmas: dict[str, Any]) -> None:
    """Set pragmas on a connection without a transaction."""
    for name, value in pragmas.items():
        execute(connection, f"PRAGMA {name}={value}")


def execute(connection: Connection, statement: str) -> Any:
    """Execute below SQLAlchemy, so that it begins no transaction; return the first column of the first row."""
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]
    finally:
        cursor.close()


def dialect_for(source: EngineSource) -> Dialect:
    """The dialect for what was given: a URL is as good as a path."""
    return SQLiteDialect(options_of(source)) if isinstance(source, FromURL) else LentSQLiteDialect(source)


def options_of(source: FromURL) -> SQLiteOptions:
    """The options of ``SQLiteBackend`` that a URL and the options of every engine leave room for."""
    return SQLiteOptions(
        database=check_database(check_no_query(source.url).database or ":memory:"),
        journal_mode="WAL",
        synchronous="NORMAL",
        connection_timeout=source.connection_timeout,
        checkpoint_interval=None,
        cache_size=None,
        temp_store=None,
        read_only=False,
        log_queries=source.options.log_queries,
        pool=source.options.pool,
        memory_name=new_memory_name(),
        key=None,
        access=check_access(None, None, None, None),
    )


def check_no_query(url: URL) -> URL:
    """Return the URL of an SQLite database, which has no query."""
    if url.query:
        raise ConfigurationError(
            "the URL of an SQLite database has no query: SQLiteBackend has options for what it says"
        )
    return url
