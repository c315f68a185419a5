"""SQLite by a URL, or over an engine that an app lends and goes on to use in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Insert,
    SingletonThreadPool,
    StaticPool,
    TableClause,
    event,
)
from sqlalchemy import Dialect as SQLAlchemyDialect
from sqlalchemy.ext.asyncio import AsyncEngine

from ..access import check_access
from ..dialect import Dialect
from ..engines import Engines
from ..exceptions import BackendError, ConfigurationError, NotAvailableError
from ..listening import Listener
from ..sqlite import READS
from ..wakeups import Wakeups
from .addresses import leads_to
from .sources import EngineSource, FromURL
from .sqlite_bulk import insert_together
from .sqlite_dialect import SQLiteDialect
from .sqlite_errors import translate
from .sqlite_joining import explain_locks, file_of
from .sqlite_listening import listener_beside
from .sqlite_options import SQLiteOptions, check_database, new_memory_name
from .sqlite_turns import turns_on

BEGIN = "BEGIN IMMEDIATE"


class LentSQLiteDialect(Dialect):
    """How an app's engine is written without a change to the app's own transactions.

    Queue writes take the write lock when they begin, on a connection of their own. With ``StaticPool`` there
    is but one connection, which the app and the queue then use by turns.
    """

    borrows_engines = has_one_writer = True
    bulk_insert = staticmethod(insert_together)

    def __init__(self, source: EngineSource) -> None:
        check_shared(source.lent)
        self.source = source
        self.has_sync_driver = source.has_sync_driver
        self.has_async_driver = self.reads_on_loops = source.has_async_driver
        self.has_one_connection = source.lent is not None and isinstance(source.lent.pool, StaticPool)

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

    def engine_to_read(self, engine: Engine) -> Engine:
        return reading_engine(engine)

    def end_reading(self, connection: Connection) -> None:
        note_use(connection)

    def listener(self, engines: Engines, wakeups: Wakeups) -> Listener | None:
        file = file_of(self.source.url)
        return None if file is None else listener_beside(file, wakeups)

    def connect_to_write(self, engine: Engine) -> Connection:
        connection = writing_engine(engine, self.source.connection_timeout).connect()
        if isinstance(engine.pool, StaticPool):
            note_use(connection)
        else:
            connection.detach()
            execute(connection, f"PRAGMA busy_timeout={self._busy_timeout}")
        return connection

    def engine_for_tasks(self, engine: Engine) -> Engine:
        if isinstance(engine.pool, StaticPool):
            raise NotAvailableError(
                "a transactional task needs a connection of its own, and an engine with StaticPool has but one: "
                "give a pool that opens more, or SQLiteBackend(':memory:')"
            )

        def begin(connection: Connection) -> None:
            found = execute(connection, "PRAGMA busy_timeout")
            execute(connection, f"PRAGMA busy_timeout={self._busy_timeout}")
            try:
                take_write_lock(connection)
            finally:
                execute(connection, f"PRAGMA busy_timeout={found}")

        return begun_by(begin, engine, engine.dialect)

    @property
    def _busy_timeout(self) -> int:
        return round(self.source.connection_timeout * 1000)  # milliseconds

    @contextmanager
    def lock_schema(self, engine: Engine) -> Iterator[Connection]:
        # As sitq.schema wants it, and afterwards as the app had it.
        wanted = {"foreign_keys": 0, "legacy_alter_table": 1, "busy_timeout": self._busy_timeout}
        with writing_engine(engine, self.source.connection_timeout).connect() as connection:
            note_use(connection)
            found = {name: execute(connection, f"PRAGMA {name}") for name in wanted}
            set_all(connection, wanted)
            try:
                with connection.begin():
                    yield connection
            finally:
                set_all(connection, found)

    def is_reached_by(self, engine: Engine) -> bool:
        return leads_to(self.source, engine, file_of)

    def join(self, engine: Engine) -> None:
        explain_locks(engine)

    def translate(self, error: BaseException) -> BackendError | None:
        return translate(error, self.source.target)


def check_shared(engine: Engine | None) -> None:
    """Raise ``ConfigurationError`` for an engine that gives each thread a database of its own."""
    if engine is not None and isinstance(engine.pool, SingletonThreadPool):
        raise ConfigurationError(
            "an engine for a database in memory opens another one in each thread, so no worker would see a task: make "
            'it with poolclass=StaticPool and connect_args={"check_same_thread": False}'
        )


def no_keywords(url: object) -> dict[str, Any]:
    """The keywords of the app's driver are the app's."""
    return {}


def reading_engine(engine: Engine) -> Engine:
    """What only reads needs no lock on an engine that is configured to take it."""
    if not isinstance(engine.pool, StaticPool):
        return engine.execution_options(**{READS: True})
    return beside(engine, turns_on(engine).dialect_to_read(engine))


def note_use(connection: Connection) -> None:
    """Let the pool roll nothing of the app's back when it gets its one connection back."""
    is_usable = not (connection.closed or connection.invalidated)
    if isinstance(connection.engine.pool, StaticPool) and is_usable:
        turns_on(connection.engine).note(connection)


def writing_engine(engine: Engine, timeout: float) -> Engine:
    """An engine over the same pool whose transactions begin with the write lock."""
    if not isinstance(engine.pool, StaticPool):
        return begun_by(take_write_lock, engine, engine.dialect)
    turns = turns_on(engine)

    def take_turn(connection: Connection) -> None:
        turns.take(connection, timeout, partial(execute, connection, BEGIN))

    return begun_by(take_turn, engine, turns.dialect_to_write())


def begun_by(begin: Callable[[Connection], None], engine: Engine, dialect: SQLAlchemyDialect) -> Engine:
    """An engine over the same pool whose transactions begin in this way, and not in the app's."""
    made = beside(engine, dialect)
    event.listen(made, "begin", begin)
    return made


def beside(engine: Engine, dialect: SQLAlchemyDialect) -> Engine:
    """An engine over the same pool, whose statements those watch who watch those of the app's."""
    made = Engine(engine.pool, dialect, engine.url, hide_parameters=True)
    for name, options in (("before_cursor_execute", {"retval": True}), ("after_cursor_execute", {})):
        for listener in getattr(engine.dispatch, name):
            event.listen(made, name, listener, **options)
    return made


def take_write_lock(connection: Connection) -> None:
    """Begin so that a read at the start of the transaction cannot turn out to be too old to write upon."""
    adapted: Any = connection.connection.dbapi_connection
    driver = getattr(adapted, "driver_connection", adapted)  # detached, the connection itself does not know it
    if driver.in_transaction:  # which a driver with autocommit=False has begun
        execute(connection, "ROLLBACK")
    execute(connection, BEGIN)


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
