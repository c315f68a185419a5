"""What each kind of database does differently: the hooks that ``backends/`` fills in, a file for each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Engine, Insert, TableClause
from sqlalchemy.ext.asyncio import AsyncEngine

from .clock import Clock
from .engines import Engines
from .exceptions import BackendError, NotAvailableError
from .health import CheckReport
from .listening import Listener
from .models import BulkInsert, Models, RowsAsTable, StoreModels
from .presence import Presence
from .secret import Secret
from .shortcut import Shortcut
from .wakeups import Wakeups

if TYPE_CHECKING:
    from .database import Database

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the pages that are done and how many there are in all; with tasks where the database is on a server."""


class Dialect(ABC):
    """All that one kind of database does differently; ``backends/`` has a file for each."""

    read_only = False
    """Whether verbs that write are refused."""

    has_sync_driver = True
    """Whether ``create_engine`` can be called; if not, sync callers are served over the async driver."""

    has_async_driver = True
    """Whether ``create_async_engine`` can be called."""

    reads_on_loops = True
    """Whether async callers read over an async engine on their own loop; if not, they are served from threads."""

    borrows_engines = False
    """Whether the engines are an app's, and so never disposed."""

    has_one_connection = False
    """Whether all must share one connection of the app's, and so must its event loop."""

    has_one_writer = False
    """Whether a transaction that writes keeps every other from beginning to."""

    news: Callable[[ColumnElement[str]], ColumnElement[Any]] | None = None
    """Makes the expression that sends a topic to other processes with the commit; ``None`` sends none."""

    claims_at_once = False
    """Whether a claim selects and leases in one statement."""

    rounds_overlap = False
    """Whether a worker does best to start what it has claimed only when its next round is under way."""

    index_hint: str | None = None
    """What makes the claim use an index, which the braces stand for; ``None`` where it is chosen well."""

    bulk_insert: BulkInsert | None = None
    """Inserts many rows faster than an INSERT does."""

    rows_as_table: RowsAsTable | None = None
    """Lets one statement change many rows, each in its own way; ``None`` where as many statements are as fast."""

    def store_models(self, models: Models) -> StoreModels:
        """The mapped classes, with how this kind of database likes to be asked."""
        return StoreModels(
            models.task,
            models.result,
            models.queue_state,
            models.app_owned,
            news=self.news,
            claims_at_once=self.claims_at_once,
            index_hint=self.index_hint,
            insert_if_free=self.insert_if_free,
            insert_or_replace=self.insert_or_replace,
            bulk_insert=self.bulk_insert,
            rows_as_table=self.rows_as_table,
        )

    @staticmethod
    @abstractmethod
    def insert_if_free(table: TableClause) -> Insert:
        """Make an INSERT that does nothing where it would meet a unique index, and raises nothing there."""

    @staticmethod
    @abstractmethod
    def insert_or_replace(table: TableClause, key: str) -> Insert:
        """Make an INSERT of every column that overwrites the row with the same ``key``, where there is one."""

    @abstractmethod
    def create_engine(self) -> Engine:
        """Make the sync engine, or give the borrowed one. Nothing is opened yet."""

    @abstractmethod
    def create_async_engine(self) -> AsyncEngine:
        """Make an async engine for the running event loop, or give the borrowed one. Nothing is opened yet."""

    def create_private_engine(self) -> AsyncEngine:
        """Make an async engine for a loop of sitq's own, never the borrowed one."""
        return self.create_async_engine()

    def engine_to_read(self, engine: Engine) -> Engine:
        """Return an engine for what only reads, over the pool of this one."""
        return engine

    def read_at_once(self, connection: Connection) -> None:
        """Let each statement on a connection of ``engine_to_read`` be a transaction of its own, if that is faster."""

    def end_reading(self, connection: Connection) -> None:
        """Do what is due before a connection of ``engine_to_read`` goes back to the pool."""

    @abstractmethod
    def connect_to_write(self, engine: Engine) -> Connection:
        """Open a connection whose transactions take the write lock when they begin."""

    def limit_pauses(self, connection: Connection) -> None:
        """Let the server roll a transaction back that stands still on this connection; no transaction is open then.

        Its process may be stopped, or its host be gone, and it holds rows that others pass over.
        """

    def alone(self, connection: Connection) -> AbstractContextManager[bool]:
        """Let a statement of ``connect_to_write`` be a transaction of its own, if that is faster; say whether it is.

        Then nobody can tell a connection that was dead before from one that died of the commit.
        """
        return nullcontext(False)

    def shortcut(self, connection: Connection, note_time: Callable[[float], None]) -> Shortcut | None:
        """Make a way past this connection of ``connect_to_write`` for statements that are alone, if there is one.

        ``note_time`` is told when a statement began, by ``time.perf_counter``, as soon as it has ended.
        """
        return None

    @abstractmethod
    def engine_for_tasks(self, engine: Engine) -> Engine:
        """Make a facade of an engine for sessions of transactional tasks, in whose transaction their claims end.

        It shares the pool. Such a transaction writes in any case, and must bear that the worker writes to the
        task's row meanwhile. Raises ``NotAvailableError`` where there can be none.
        """

    def connect_to_look(self, engine: Engine) -> Connection:
        """Open a connection to look at sitq's own tables, whose names mean those of ``schema`` where there is one."""
        return self.engine_to_read(engine).connect()

    def enter_schema(self, connection: Connection) -> None:
        """Let the names of sitq's own tables mean those of ``schema`` until the transaction ends, if there is one."""

    def connect_to_snapshot(self, engine: Engine) -> Connection:
        """Open a connection whose transaction sees what was there when it began to read."""
        return self.engine_to_read(engine).connect()

    @abstractmethod
    def lock_schema(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Hold a transaction in which nobody else changes the schema; it commits if the block ends well."""

    @abstractmethod
    def translate(self, error: BaseException) -> BackendError | None:
        """Turn a driver's error into one of sitq's, or return ``None`` if it is not the driver's."""

    def lost_race(self, error: BaseException) -> bool:
        """Whether this error rolled back a transaction that may do better when it is run again at once."""
        return False

    def prepare(self) -> None:
        """Make ready for the first connection."""

    def settle(self, engine: Engine) -> None:
        """Do what alters the database, now that its tables are known to be sitq's."""

    def release(self, engine: Engine) -> None:
        """Do what is due before the last connections are closed."""

    def check_server(self, connection: Connection) -> None:
        """Raise ``NotAvailableError`` if the server cannot do what sitq needs."""

    def read_clock(self, connection: Connection) -> datetime | None:
        """Read the clock that leases follow; ``None`` where it is this machine's."""
        return None

    def set_clock(self, clock: Clock, connection: Connection) -> None:
        """Set a clock by what ``read_clock`` says."""
        clock.set_by(lambda: self.read_clock(connection))

    @abstractmethod
    def is_reached_by(self, engine: Engine) -> bool:
        """Whether an engine leads to this very database: by its URL, or since it is the one that was lent."""

    def join(self, engine: Engine) -> None:
        """Make ready for tasks in transactions of an app's own over this engine; called at least once for each."""

    def presence(self, worker_id: str) -> Presence:
        """What lets workers notice at once if this one dies; by default they learn of it from its leases."""
        return Presence(worker_id)

    def listener(self, engines: Engines, wakeups: Wakeups) -> Listener | None:
        """What hears of other processes; ``None`` where waiters can only poll."""
        return None

    # What an operator asks for. The defaults say that it is not for sitq to do.

    def create_engine_apart(self, patience: float) -> Engine | None:
        """Make an engine that waits for no pool, and for locks at most ``patience`` seconds; ``None`` is the usual."""
        return None

    def measure(self) -> dict[str, Any]:
        """Find out what ``Health`` tells of sizes, without a statement; raise what makes the database unhealthy."""
        return {}

    def examine(self, engine: Engine) -> dict[str, Any]:
        """Find out more for ``Health``, by statements; raise what makes the database unhealthy."""
        return {}

    def back_up(self, database: Database, target: Path, progress: Progress | None) -> None:
        """Write a copy of the database to a file, whole or not at all."""
        raise self._not_available("backup")

    def restore(self, database: Database, damaged: bool, source: Path, paused: bool, progress: Progress | None) -> None:
        """Put the content of a backup in the place of the database's, whole or not at all.

        If the present content is ``damaged``, no connection of this process is open.
        """
        raise self._not_available("restore")

    def rekey(self, new_key: Secret | None) -> None:
        """Encrypt with another key, or decrypt if it is ``None``; no connection of this process is open."""
        raise self._not_available("rekey")

    def vacuum(self) -> None:
        """Give back the space of deleted rows."""
        raise self._not_available("vacuum")

    def optimize(self) -> None:
        """Let the database look at its tables, so that it finds the best way through them."""
        raise self._not_available("optimize")

    def check(self) -> CheckReport:
        """Look at every page and reference."""
        raise self._not_available("check")

    def _not_available(self, verb: str) -> NotAvailableError:
        return NotAvailableError(f"{verb} is not available for this kind of database; use the tools of its server")
