"""How SQLite is opened, written and closed: all that it does differently below the doors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import AsyncAdaptedQueuePool, Connection, Engine, Insert, QueuePool, TableClause, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..access import Role
from ..database import Database
from ..dialect import Dialect, Progress
from ..engines import Engines
from ..exceptions import BackendError
from ..health import CheckReport
from ..listening import Listener
from ..presence import Presence, file_presence
from ..query_log import log_queries as log_queries_of
from ..secret import Secret
from ..shortcut import Shortcut
from ..wakeups import Wakeups
from . import sqlite_copies, sqlite_maintenance, sqlite_rekeying, sqlite_restoring
from .sqlite_bulk import insert_together
from .sqlite_connections import (
    abegin_immediate,
    aconnect,
    be_impatient,
    begin_immediate,
    connect,
    driver_of,
    fold_log,
    roll_back_first,
    try_long,
)
from .sqlite_errors import driver_errors, translate
from .sqlite_files import OpenedFile, is_missing, prepare_file
from .sqlite_joining import explain_lock, explain_locks, file_of, real_path
from .sqlite_listening import listener_beside
from .sqlite_options import SQLiteOptions
from .sqlite_shortcut import SQLiteShortcut
from .unheard import Unheard

if TYPE_CHECKING:
    import aiosqlite

WRITES = "sitq_writes"
IMPATIENTLY = "impatiently"
"""The execution option of connections whose transactions take the write lock when they begin."""


class SQLiteDialect(Dialect):
    """How SQLite is opened, written and closed."""

    has_one_writer = True
    bulk_insert = staticmethod(insert_together)

    def __init__(self, options: SQLiteOptions) -> None:
        self.options = options
        self.read_only = options.read_only
        self._file = OpenedFile(None if options.in_memory else options.path)
        self._anchor: sqlite3.Connection | None = None
        self._is_known = False

    @staticmethod
    def insert_if_free(table: TableClause) -> Insert:
        from sqlalchemy.dialects.sqlite import insert

        return insert(table).on_conflict_do_nothing()

    @staticmethod
    def insert_or_replace(table: TableClause, key: str) -> Insert:
        return table.insert().prefix_with("OR REPLACE")

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
        event.listen(engine.sync_engine, "invalidate", roll_back_first)
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
        elif connection.dialect.is_async:
            abegin_immediate(connection, self.options)
            self._file.require_in_place()
        else:
            self._begin_to_write(driver_of(connection), impatiently=writes == IMPATIENTLY)

    def _begin_to_write(self, driver: sqlite3.Connection, *, impatiently: bool) -> None:
        if impatiently:
            try_long(driver, "BEGIN IMMEDIATE", self.options)
        else:
            begin_immediate(driver, self.options)
        try:
            self._file.require_in_place()  # from here on nobody can replace it
        except BackendError:
            driver.rollback()
            raise

    @property
    def _may_create(self) -> bool:
        return self.options.access.role is Role.ADMIN

    def is_reached_by(self, engine: Engine) -> bool:
        if self.options.in_memory:  # by a name that no other has
            return engine.url.database == self.options.url.database
        return file_of(engine.url) == real_path(self.options.database)

    def join(self, engine: Engine) -> None:
        explain_locks(engine)

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

    def shortcut(self, connection: Connection, note_time: Callable[[float], None]) -> Shortcut | None:
        impatiently = connection.get_execution_options().get(WRITES) == IMPATIENTLY
        unheard = Unheard(connection, own_begins=1, own_explanations=(explain_lock,))
        return SQLiteShortcut(connection, unheard, partial(self._begin_to_write, impatiently=impatiently), note_time)

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
