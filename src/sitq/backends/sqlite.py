"""SQLite: the embedded default, and all that it does differently."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import AsyncAdaptedQueuePool, Connection, Engine, Insert, QueuePool, TableClause, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..access import NO_CONTROL, Role, check_access
from ..database import Database
from ..dialect import Dialect, Progress
from ..engines import Engines
from ..exceptions import BackendError, ConfigurationError
from ..health import CheckReport
from ..listening import Listener
from ..models import Models
from ..options import Seconds, check_bool, check_choice, check_int, check_seconds
from ..presence import Presence, file_presence
from ..query_log import log_queries as log_queries_of
from ..secret import Secret, concealed
from ..wakeups import Wakeups
from . import sqlite_copies, sqlite_maintenance, sqlite_rekeying, sqlite_restoring
from .guarding import guarded
from .sql import SQLAlchemyBackend
from .sqlite_connections import (
    abegin_immediate,
    aconnect,
    be_impatient,
    begin_immediate,
    connect,
    driver_of,
    fold_log,
    try_long,
)
from .sqlite_errors import driver_errors, translate
from .sqlite_files import OpenedFile, is_missing, prepare_file
from .sqlite_joining import explain_locks, file_of, real_path
from .sqlite_listening import listener_beside
from .sqlite_options import (
    MEMORY,
    SYNCHRONOUS,
    TEMP_STORES,
    SQLiteOptions,
    check_database,
    check_encryption,
    check_journal_mode,
    check_pool,
    new_memory_name,
)

WRITES = "sitq_writes"
IMPATIENTLY = "impatiently"
"""The execution option of connections whose transactions take the write lock when they begin."""


@guarded
class SQLiteBackend(SQLAlchemyBackend):
    """Tasks and results in an SQLite file, or in memory.

    Nothing is opened before the first use, which makes the folder, the file and the tables. One connection
    more than the pool holds is kept for writing, and the async pool is a second one of the same size.

    Args:
        database: a path, or ``":memory:"`` for a database that lives as long as the backend is open.
        connection_pool_size: connections kept by each pool, 1 or more.
        max_overflow: connections more when all are in use.
        pool_timeout: seconds to wait for a connection of the pool.
        pool_recycle: seconds after which a connection is opened anew; never, unless given.
        connection_timeout: seconds to wait for somebody else's lock.
        enable_wal: write-ahead logging, on unless told otherwise.
        checkpoint_interval: pages after which the log is folded into the file; 0 never does.
        synchronous: ``OFF``, ``NORMAL``, ``FULL`` or ``EXTRA``.
        journal_mode: overrides ``enable_wal``.
        cache_size: pages of cache a connection; a negative number counts KiB.
        temp_store: ``DEFAULT``, ``FILE`` or ``MEMORY``.
        readonly: open an existing file so that nothing can be written.
        debug: let the logger ``sitq`` log at level DEBUG.
        log_queries: log each statement, without parameters, to the logger ``sitq.sql``.
        auto_upgrade: upgrade an older schema when the database is opened.
        encryption_key: what the file, its log and its backups are encrypted with. Needs the extra ``encryption``.
        cipher: ``AES-256``, the one that there is.
        read_only_users: users that may look. Without any of the three lists there is no control.
        write_users: users that may also enqueue, run, cancel and retry tasks.
        admin_users: users that may do everything.
        user: the acting user; the operating system's, unless given.
        models: what ``declare_models`` returned, if your app owns the tables; then they are never altered.

    Raises:
        ConfigurationError: a value is not allowed; the message names option, value and what is.
        NotAvailableError: SQLCipher is not installed.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] = "sitq.db",
        *,
        connection_pool_size: int = 5,
        max_overflow: int = 10,
        pool_timeout: Seconds = 30.0,
        pool_recycle: Seconds | None = None,
        connection_timeout: Seconds = 30.0,
        enable_wal: bool | None = None,
        checkpoint_interval: int | None = None,
        synchronous: str = "NORMAL",
        journal_mode: str | None = None,
        cache_size: int | None = None,
        temp_store: str | None = None,
        readonly: bool = False,
        debug: bool = False,
        log_queries: bool = False,
        auto_upgrade: bool = True,
        encryption_key: str | Secret | None = None,
        cipher: str | None = None,
        read_only_users: list[str] | None = None,
        write_users: list[str] | None = None,
        admin_users: list[str] | None = None,
        user: str | None = None,
        models: Models | None = None,
    ) -> None:
        encryption_key = concealed(encryption_key)
        path = check_database(database)
        temp_store = optional(check_choice, "temp_store", temp_store, allowed=TEMP_STORES, any_case=True)
        key = check_encryption(encryption_key, cipher, in_memory=path == MEMORY, temp_store=temp_store)
        access = check_access(read_only_users, write_users, admin_users, user)
        if models is not None and access is not NO_CONTROL:
            raise ConfigurationError("lists of users guard sitq's own tables: leave them out, or leave out models")
        options = SQLiteOptions(
            database=path,
            journal_mode=check_journal_mode(enable_wal, journal_mode),
            synchronous=check_choice("synchronous", synchronous, SYNCHRONOUS, any_case=True),
            connection_timeout=check_seconds("connection_timeout", connection_timeout, at_most=1e6),
            checkpoint_interval=optional(check_int, "checkpoint_interval", checkpoint_interval, at_least=0),
            cache_size=optional(check_int, "cache_size", cache_size),
            temp_store=temp_store,
            read_only=check_bool("readonly", readonly) or access.role is Role.READER,
            log_queries=check_bool("log_queries", log_queries),
            pool=check_pool(connection_pool_size, max_overflow, pool_timeout, pool_recycle),
            memory_name=new_memory_name(),
            key=key,
            access=access,
        )
        if check_bool("debug", debug):
            logging.getLogger("sitq").setLevel(logging.DEBUG)
        dialect = SQLiteDialect(options)
        self.use(dialect, target=options.database, auto_upgrade=auto_upgrade, models=models, access=access)


def optional(check: Any, option: str, value: object, **limits: Any) -> Any:
    """Check a value unless it is ``None``."""
    return None if value is None else check(option, value, **limits)


class SQLiteDialect(Dialect):
    """How SQLite is opened, written and closed."""

    has_one_writer = True

    def __init__(self, options: SQLiteOptions) -> None:
        self.options = options
        self.read_only = options.read_only
        self._file = OpenedFile(None if options.in_memory else options.path)
        self._anchor: sqlite3.Connection | None = None
        self._is_known = False

    @staticmethod
    def insert_if_free(table: TableClause) -> Insert:
        return insert(table).on_conflict_do_nothing()

    @staticmethod
    def insert_or_replace(table: TableClause, key: str) -> Insert:
        return insert(table).prefix_with("OR REPLACE")

    def create_engine(self) -> Engine:
        engine = create_engine(
            self.options.url, creator=self._connect, poolclass=QueuePool, hide_parameters=True, **self.options.pool
        )
        self._listen(engine)
        event.listen(engine, "close", self._fold_if_moved)
        event.listen(engine, "close_detached", self._fold_if_moved)
        return engine

    def create_async_engine(self) -> AsyncEngine:
        engine = create_async_engine(
            self.options.async_url,
            async_creator=self._aconnect,
            poolclass=AsyncAdaptedQueuePool,
            hide_parameters=True,
            **self.options.pool,
        )
        self._listen(engine.sync_engine)
        return engine

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "begin", self._begin)
        if self.options.log_queries:
            log_queries_of(engine)

    def _connect(self) -> sqlite3.Connection:
        self._file.require_in_place()
        found = self._file.look()
        driver = connect(self.options, create=self._may_create, alter=self._is_known)
        self._file.note(found)
        return driver

    def _fold_if_moved(self, connection: Any, *_: object) -> None:
        # Of a file that was moved, SQLite leaves the log behind when it closes, with all that it holds.
        if not (self.options.in_memory or self.read_only or self._file.in_place):
            fold_log(connection, self.options)

    async def _aconnect(self) -> aiosqlite.Connection:
        return await aconnect(self._connect)

    def _begin(self, connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES)
        if not writes:
            self._file.require_in_place()
            connection.exec_driver_sql("BEGIN")
            return
        if connection.dialect.is_async:
            abegin_immediate(connection, self.options)
        elif writes == IMPATIENTLY:
            try_long(driver_of(connection), "BEGIN IMMEDIATE", self.options)
        else:
            begin_immediate(driver_of(connection), self.options)
        self._file.require_in_place()  # from here on nobody can replace it

    @property
    def _may_create(self) -> bool:
        return self.options.access.role is Role.ADMIN

    def is_reached_by(self, engine: Engine) -> bool:
        if self.options.in_memory:  # by a name that no other has
            return engine.url.database == self.options.url.database
        return file_of(engine.url) == real_path(self.options.database)

    def join(self, engine: Engine, models: Models) -> None:
        explain_locks(engine, models)

    def presence(self, worker_id: str) -> Presence:
        if self.options.in_memory or self.read_only:
            return Presence(worker_id)
        return file_presence(worker_id, Path(f"{self.options.path}-workers"))

    def listener(self, engines: Engines, wakeups: Wakeups) -> Listener | None:
        return None if self.options.in_memory or self.read_only else listener_beside(self.options.path, wakeups)

    def connect_to_write(self, engine: Engine) -> Connection:
        connection = engine.connect()
        connection.detach()
        if self.options.in_memory or self.options.journal_mode != "WAL":
            return connection.execution_options(**{WRITES: True})
        # With a write-ahead log, nothing but the beginning of a transaction waits for a lock.
        be_impatient(driver_of(connection))
        return connection.execution_options(**{WRITES: IMPATIENTLY})

    def engine_for_tasks(self, engine: Engine) -> Engine:
        return engine.execution_options(**{WRITES: True})

    @contextmanager
    def lock_schema(self, engine: Engine) -> Iterator[Connection]:
        self.options.access.require("upgrade")
        with engine.connect().execution_options(**{WRITES: True}) as connection:
            driver = driver_of(connection)
            # Tables are rebuilt by making another and dropping the old one, which must not touch what refers to it.
            driver.execute("PRAGMA foreign_keys=OFF")
            driver.execute("PRAGMA legacy_alter_table=ON")
            try:
                with connection.begin():
                    yield connection
            finally:
                driver.execute("PRAGMA legacy_alter_table=OFF")
                driver.execute("PRAGMA foreign_keys=ON")

    def translate(self, error: BaseException) -> BackendError | None:
        return translate(error, self.options.database)

    def prepare(self) -> None:
        """Make the folder, or hold a memory database open; a read-only file must exist."""
        self.options.access.require("initialize")
        if self.options.in_memory or is_missing(self.options.path):
            self.options.access.require("create")
        if not self.options.in_memory:
            prepare_file(self.options.path, read_only=self.read_only)
        elif self._anchor is None:
            self._anchor = sqlite3.connect(self.options.uri(), uri=True, check_same_thread=False)

    def settle(self, engine: Engine) -> None:
        """Use the journal mode that was asked for, now that the file is known to be sitq's."""
        self._is_known = True
        engine.dispose()
        engine.connect().close()

    def release(self, engine: Engine) -> None:
        """Fold the write-ahead log into the file; let a memory database go."""
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        elif not self.options.read_only and self._file.is_open and self._file.in_place:
            # What is damaged cannot be folded, and is closed all the same.
            with suppress(BackendError, *driver_errors()), closing(engine.raw_connection()) as pooled:
                fold_log(pooled.dbapi_connection, self.options)
        self._file.forget()
        self._is_known = False

    # What an operator asks for.

    def create_engine_apart(self, patience: float) -> Engine:
        timeout = min(patience, self.options.connection_timeout)
        return SQLiteDialect(replace(self.options, connection_timeout=timeout, log_queries=False)).create_engine()

    def measure(self) -> dict[str, Any]:
        self._file.require_in_place()
        return sqlite_maintenance.measure(self.options)

    def examine(self, engine: Engine) -> dict[str, Any]:
        with engine.connect() as connection:
            return sqlite_maintenance.examine(driver_of(connection), self.options)

    def back_up(self, database: Database, target: Path, progress: Progress | None) -> None:
        self._file.require_in_place()
        sqlite_copies.back_up(self.options, target, progress)

    def restore(self, database: Database, damaged: bool, source: Path, paused: bool, progress: Progress | None) -> None:
        self._file.require_in_place()
        with sqlite_restoring.ready_copy(self.options, source, database.models, paused, type(self)) as copy:
            if damaged:
                sqlite_restoring.replace_damaged(copy, self.options)
            else:
                sqlite_restoring.put_in_place(copy, self.options, progress)

    def rekey(self, new_key: Secret | None) -> None:
        self.options = sqlite_rekeying.rekey(self.options, new_key)

    def vacuum(self) -> None:
        self._file.require_in_place()
        sqlite_maintenance.vacuum(self.options)

    def optimize(self) -> None:
        self._file.require_in_place()
        sqlite_maintenance.optimize(self.options)

    def check(self) -> CheckReport:
        self._file.require_in_place()
        return sqlite_maintenance.check(self.options)
