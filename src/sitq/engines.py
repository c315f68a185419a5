"""The engines behind the two doors, and the bridge to a door that has no driver of its own.

A sync driver serves async callers from threads. An async driver serves sync callers on an event loop of its
own, in a thread of its own: what runs there is the same sync code, in a greenlet that SQLAlchemy switches away
from whenever the driver awaits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, QueuePool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from .exceptions import DatabaseUnavailableError, NotAvailableError
from .query_log import QueryTimes

P = ParamSpec("P")
T = TypeVar("T")

LOOP_CHECK = 1.0
"""Seconds after which who waits for an event loop looks whether it still runs."""

# What tells one server from another, and is no secret.
SHOWN_IN_QUERY = ("host", "port", "service", "unix_socket")


class EngineMaker(Protocol):
    """Who makes the engines of a database."""

    borrows_engines: bool
    has_sync_driver: bool
    has_async_driver: bool
    has_one_connection: bool

    def create_engine(self) -> Engine: ...  # noqa: D102
    def create_async_engine(self) -> AsyncEngine: ...  # noqa: D102
    def create_private_engine(self) -> AsyncEngine: ...  # noqa: D102


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sitq-loop", daemon=True)
        self._thread.start()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run sync code over an async driver on the loop, and block until it has ended."""
        assert threading.current_thread() is not self._thread, "it would wait for itself"
        return call_on(self._loop, partial(function, *args, **kwargs))

    def stop(self) -> None:
        """Let the loop and the thread end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> T:
    """Run sync code over an async driver on a loop of another thread, and block until it has ended."""
    future = asyncio.run_coroutine_threadsafe(greenlet_spawn(function), loop)
    try:
        while not wait([future], timeout=LOOP_CHECK).done:
            if not loop.is_running():
                raise DatabaseUnavailableError("the event loop that the database is used on was stopped")
        return future.result()
    except BaseException:
        future.cancel()
        raise


class Engines:
    """The engines of one database in this process, each made when it is first asked for."""

    def __init__(self, maker: EngineMaker) -> None:
        self.query_times = QueryTimes()
        self._maker = maker
        self._lock = threading.RLock()
        self._engine: Engine | None = None
        self._private: AsyncEngine | None = None
        self._thread: LoopThread | None = None
        self._async_engine: AsyncEngine | None = None
        self._async_loop: asyncio.AbstractEventLoop | None = None
        self._app_loop: asyncio.AbstractEventLoop | None = None

    def note_loop(self) -> None:
        """Note that the running loop is where an async driver's one connection is used, if there is but one."""
        if self._maker.has_one_connection:
            self._app_loop = asyncio.get_running_loop()

    @property
    def engine(self) -> Engine:
        """The sync engine; raises ``NotAvailableError`` where there is only an async driver."""
        if not self._maker.has_sync_driver:
            raise NotAvailableError("there is no sync engine, since the driver is async only; use async_engine")
        return self.called_engine

    @property
    def called_engine(self) -> Engine:
        """The engine for functions that run in ``call``."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()
                self.query_times.watch(self._engine)
            return self._engine

    def _make_engine(self) -> Engine:
        if self._maker.has_sync_driver:
            return self._maker.create_engine()
        self._private = self._maker.create_private_engine()
        return self._private.sync_engine

    @property
    def async_engine(self) -> AsyncEngine:
        """The async engine of the running event loop; another loop gets another engine, unless it is borrowed.

        Raises ``NotAvailableError`` where there is only a sync driver.
        """
        if not self._maker.has_async_driver:
            raise NotAvailableError("there is no async engine, since the driver is sync only; use engine")
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._async_engine is None or (self._async_loop is not loop and not self._maker.borrows_engines):
                abandoned, self._async_engine = self._async_engine, self._maker.create_async_engine()
                self.query_times.watch(self._async_engine.sync_engine)
                if abandoned is not None and self._async_loop is not None:
                    dispose_elsewhere(abandoned, self._async_loop)
                self._async_loop = loop
            return self._async_engine

    def include(self, engine: Engine) -> bool:
        """Whether this is one of them, or shares the pool of one."""
        made = (self._engine, None if self._async_engine is None else self._async_engine.sync_engine)
        return any(each is not None and each.pool is engine.pool for each in made)

    def connections_in_use(self) -> int:
        """How many connections of the pools are with somebody just now."""
        async_engine = self._async_engine
        engines = [self._engine, None if async_engine is None else async_engine.sync_engine]
        pools = [engine.pool for engine in engines if engine is not None]
        return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that uses ``called_engine``: here, or in the thread of an async driver's loop.

        An async connection must not be used by two loops at once, so the app's own loop serves the one it shares.
        """
        if self._maker.has_sync_driver:
            return function(*args, **kwargs)
        loop = self._app_loop
        if loop is not None and loop.is_running() and asyncio._get_running_loop() is not loop:
            return call_on(loop, partial(function, *args, **kwargs))
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread()
        return self._thread.call(function, *args, **kwargs)

    def close(self, release: Callable[[Engine], None]) -> None:
        """Dispose of what was made, not of what was borrowed; ``release`` is called with the engine before."""
        if self._async_engine is not None and self._async_loop is not None and not self._maker.borrows_engines:
            dispose_elsewhere(self._async_engine, self._async_loop)
        if self._engine is not None:
            self.call(self._close_engine, self._engine, release)
        if self._thread is not None:
            self._thread.stop()

    def _close_engine(self, engine: Engine, release: Callable[[Engine], None]) -> None:
        release(engine)
        if self._private is not None or not self._maker.borrows_engines:
            engine.dispose()

    async def aclose(self) -> None:
        """Dispose of the running loop's engine; ``close`` does the rest."""
        engine = self._async_engine
        if engine is not None and self._async_loop is asyncio.get_running_loop() and not self._maker.borrows_engines:
            self._async_engine = None
            await engine.dispose()


def shown_url(url: URL) -> str:
    """A URL for messages: without password, and without what else may be secret."""
    shown = {key: value for key, value in url.query.items() if key in SHOWN_IN_QUERY}
    return url.set(query=shown).render_as_string(hide_password=True)


def again_if_lost(function: Callable[[], T]) -> T:
    """Call a function that changes nothing; once more if the connection that a pool gave it was dead."""
    try:
        return function()
    except DBAPIError as error:
        require_lost(error)
        return function()


def require_lost(error: DBAPIError) -> None:
    """Raise the error, unless it says that the pool's connection was lost, and another may do."""
    if not error.connection_invalidated:
        raise error


def close_detached(connection: Connection) -> None:
    """Close a connection that belongs to no pool any more, the driver's with it."""
    driver = None if connection.invalidated else connection.connection.dbapi_connection
    connection.close()
    # SQLAlchemy leaves it to the garbage collector where the driver cannot be told to terminate at once.
    if driver is not None and connection.dialect.is_async and not connection.dialect.has_terminate:
        driver.close()


def dispose_elsewhere(engine: AsyncEngine, loop: asyncio.AbstractEventLoop) -> None:
    """Dispose of an async engine from a thread that does not run its event loop."""
    thread = threading.Thread(target=lambda: asyncio.run(engine.dispose()), name="sitq-dispose")
    thread.start()
    thread.join()
