"""The two doors to a database: ``read`` and ``write`` for threads, ``aread`` and ``awrite`` for event loops.

What goes through a door is a plain function of the store. Reads run on a session of their own; writes stand
in the line of the backend's one writer. The first use opens the database: it makes or upgrades the tables.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import TimeoutError as NoConnectionInTime
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from . import forks
from .clock import Clock
from .dialect import Dialect
from .engines import Engines, again_if_lost
from .exceptions import BackendError, PoolTimeoutError, ReadOnlyError
from .holding import require_not_held
from .models import Models, StoreModels
from .reader import Reader
from .readiness import Readiness
from .translating import Translating
from .unbroken import unbroken
from .wakeups import Wakeups
from .write_access import WriteAccess
from .write_connection import WriteConnection
from .writer import Write, Writer

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """One database, its engines and its doors. Nothing is opened before the first use.

    Args:
        dialect: what this kind of database does differently.
        models: the mapped classes.
        auto_upgrade: whether an older schema is upgraded when the database is opened.
        target: what the database is called in messages.

    Attributes:
        has_tables: whether the tables have been seen to be there, in this process or before it was forked.
    """

    def __init__(self, dialect: Dialect, models: Models, *, auto_upgrade: bool, target: str) -> None:
        self.dialect = dialect
        self.models = dialect.store_models(models)
        self.target = target
        self.wakeups = Wakeups()
        self._other_clock: Callable[[], datetime] | None = None
        self._readiness = Readiness(dialect, self.models, auto_upgrade=auto_upgrade, target=target)
        self._translating = Translating(self.translate)
        self._opening = threading.RLock()
        self.has_tables = False
        self._reset()
        forks.watch(self)

    def _reset(self) -> None:
        self._is_open = False
        self._clock = Clock()
        self._engines = Engines(self.dialect)
        self._reader = Reader(self.dialect, self._engines)
        access = WriteAccess(self.dialect, self._engines, self._clock, self.translate)
        self._writer = Writer(WriteConnection(access))
        self.wakeups.hears = False
        self._listener = self.dialect.listener(self._engines, self.wakeups)
        self.wakeups.on_subscribe = None if self._listener is None else self._listener.start
        self.wakeups.on_notify = None if self._listener is None else self._listener.tell

    @property
    def engine(self) -> Engine:
        """The sync engine; raises ``NotAvailableError`` where there is only an async driver."""
        return self._engines.engine

    @property
    def async_engine(self) -> AsyncEngine:
        """The async engine of the running loop; raises ``NotAvailableError`` where there is only a sync driver."""
        return self._engines.async_engine

    @property
    def connections_in_use(self) -> int:
        """How many connections of both pools are with somebody just now."""
        return self._engines.connections_in_use()

    @property
    def average_query_time(self) -> float:
        """Milliseconds that a statement took lately, the mean."""
        return self._engines.query_times.average()

    def is_reached_by(self, engine: Engine) -> bool:
        """Whether an engine, which may be an app's, leads to this very database."""
        return self._engines.include(engine) or self.dialect.is_reached_by(engine)

    def now(self) -> datetime:
        """The time by the clock that leases follow."""
        return self._clock.now() if self._other_clock is None else self._other_clock()

    def use_clock(self, clock: Callable[[], datetime] | None) -> None:
        """Let ``now`` give what this one gives; ``None`` ends it."""
        self._other_clock = clock

    # The doors.

    def read(self, function: Callable[Concatenate[Session, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a store function that changes nothing; each of its statements may see a moment of its own."""
        return self.look(in_session(function), *args, **kwargs)

    def read_in_transaction(
        self, function: Callable[Concatenate[Session, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``read`` for a function that fetches its rows little by little, or sets what is to hold for all of it."""
        look_at = in_session(function)
        return self._read(lambda connection: look_at(connection, self.models, *args, **kwargs), at_once=False)

    def look(
        self, function: Callable[Concatenate[Connection, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``read`` for a function that makes no objects: without a session it costs half as much."""
        return self._read(lambda connection: function(connection, self.models, *args, **kwargs), at_once=True)

    def _read(self, look: Callable[[Connection], T], *, at_once: bool) -> T:
        with self.translated():
            self.open()
            return self._reader.read(look, at_once=at_once)

    async def aread(
        self, function: Callable[Concatenate[Session, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a store function that changes nothing without blocking the event loop."""
        if not self.dialect.reads_on_loops:
            return await asyncio.to_thread(lambda: self.read(function, *args, **kwargs))
        look_at = in_session(function)
        with self.translated():
            await self.aopen()
            return await self._reader.aread(lambda connection: look_at(connection, self.models, *args, **kwargs))

    async def alook(
        self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``look`` without blocking the event loop: in a thread, which costs less than an async driver."""
        if not self.dialect.has_sync_driver:
            return await self.aread(function, *args, **kwargs)
        return await unbroken(asyncio.to_thread(lambda: self.look(function, *args, **kwargs)))

    def write(
        self, function: Callable[Concatenate[Connection, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a store function and return when it has been committed."""
        assert not kwargs, "writes are compared by their arguments, so these are positional"
        return self._commit(Write(function, (self.models, *args)))

    async def awrite(
        self, function: Callable[Concatenate[Connection, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a store function without blocking the event loop, and return when it has been committed."""
        assert not kwargs, "writes are compared by their arguments, so these are positional"
        return await self._acommit(Write(function, (self.models, *args)))

    def write_rows(
        self,
        function: Callable[[Connection, StoreModels, Sequence[Any]], list[T]],
        rows: Sequence[Any],
        *,
        alone: bool = False,
    ) -> list[T]:
        """``write`` for a function that gives one answer a row; rows of several callers go in one call.

        ``alone`` says that the function executes at most one statement for these rows that writes; see ``Write``.
        """
        return self._commit(Write(function, (self.models,), rows, alone=alone))

    async def awrite_rows(
        self,
        function: Callable[[Connection, StoreModels, Sequence[Any]], list[T]],
        rows: Sequence[Any],
        *,
        alone: bool = False,
    ) -> list[T]:
        """``awrite`` for a function that gives one answer a row; rows of several callers go in one call."""
        return await self._acommit(Write(function, (self.models,), rows, alone=alone))

    def _commit(self, write: Write[T]) -> T:
        if self.dialect.has_one_writer:
            require_not_held(self)
        with self.translated():
            self.open_to_write()
            return self._writer.write(write)

    async def _acommit(self, write: Write[T]) -> T:
        self._engines.note_loop()
        if self.dialect.has_one_writer:
            require_not_held(self)
        with self.translated():
            if self.dialect.read_only or not self._is_open:
                await asyncio.to_thread(self.open_to_write)
            return await self._writer.awrite(write)

    # Opening and closing.

    def open(self) -> None:
        """Make the database ready, unless it is: its folder, its file, its tables."""
        if self._is_open:
            return
        with self.translated(), self._opening:
            if not self._is_open:
                self.dialect.prepare()
                self._engines.call(again_if_lost, self._make_ready)
                self._is_open = self.has_tables = True

    async def aopen(self) -> None:
        """``open`` without blocking the event loop."""
        self._engines.note_loop()
        if not self._is_open:
            await asyncio.to_thread(self.open)

    def open_to_write(self) -> None:
        """``open``, or raise ``ReadOnlyError`` if the database is to be read only."""
        self.require_writable()
        self.open()

    def require_writable(self) -> None:
        """Raise ``ReadOnlyError`` if the database is to be read only."""
        if self.dialect.read_only:
            raise ReadOnlyError(f"{self.target} was opened with readonly=True; open it without to change anything")

    def close(self) -> None:
        """Commit what waits and close every connection; the next use opens again."""
        with self._opening:
            with self.translated():
                self._writer.close()
                if self._listener is not None:
                    self._listener.close()
                self._engines.close(self.dialect.release)
            self._reset()

    @contextmanager
    def kept_closed(self) -> Iterator[None]:
        """Close every connection, and let who wants to open the database wait until the block ends."""
        with self._opening:
            self.close()
            yield

    async def aclose(self) -> None:
        """``close`` without blocking the event loop."""
        await self._engines.aclose()
        await asyncio.to_thread(self.close)

    def begin_anew(self) -> None:
        """In a forked child: leave the parent's connections alone, not even closing them, and open others."""
        forks.keep((self._engines, self._writer, self._listener))
        self._opening = threading.RLock()
        self._reset()

    def _make_ready(self) -> None:
        self._readiness.make(self._engines.called_engine, self._clock)

    def check_schema(self) -> None:
        """Raise ``SchemaError`` if the tables lack anything; see ``schema_check.check_fully``."""

        def look() -> None:
            self._readiness.check_fully(self._engines.called_engine)

        with self.translated(), self._opening:
            self.dialect.prepare()
            self._engines.call(again_if_lost, look)

    # What transactions that span many calls need, and what every door does with errors.

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function where connections of the sync door can be used."""
        return self._engines.call(function, *args, **kwargs)

    def connect_to_write(self) -> Connection:
        """Open a connection whose transactions take the write lock when they begin."""
        return again_if_lost(lambda: self.dialect.connect_to_write(self._engines.called_engine))

    def connect_to_snapshot(self) -> Connection:
        """Open a connection whose transaction sees one moment of the database."""
        return self.dialect.connect_to_snapshot(self._engines.called_engine)

    def translate(self, error: BaseException) -> BackendError | None:
        """Turn a driver's or the pool's error into one of sitq's, or return ``None`` if it is neither."""
        if isinstance(error, NoConnectionInTime):
            return PoolTimeoutError(
                f"no connection to {self.target} was free within pool_timeout; "
                f"raise it, connection_pool_size or max_overflow"
            )
        return self.dialect.translate(error)

    def translated(self) -> Translating:
        """Turn errors into sitq's, the cause kept; use as a context manager."""
        return self._translating


def in_session(
    function: Callable[Concatenate[Session, StoreModels, P], T],
) -> Callable[Concatenate[Connection, StoreModels, P], T]:
    """Let a function that takes a session run on a connection."""

    def run(connection: Connection, models: StoreModels, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with Session(connection, expire_on_commit=False) as session:
            return function(session, models, *args, **kwargs)

    return run
