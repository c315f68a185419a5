"""The one connection of a ``StaticPool``, which the app and sitq use by turns.

A transaction belongs to a connection, so whatever the app executes, commits or rolls back there while sitq is in a
transaction would be done to that one. The app therefore waits until it has ended, as it would for a lock; and so do
reads of sitq's own, which would see what is not committed.

A thread holds a lock while it executes, so that sitq begins nothing meanwhile. A coroutine only waits before: an async
driver executes in the order in which it was asked, and BEGIN fails after a statement of the app's that began.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, PoolProxiedConnection, event
from sqlalchemy.util import await_only

from ..exceptions import DatabaseLockedError

P = ParamSpec("P")
T = TypeVar("T")

POLL = 0.001
"""Between two looks at a connection that is in use, in seconds."""

TURNS = "sitq_turns"
"""The attribute of a dialect that tells them."""


class Turns:
    """Whose turn it is on one connection.

    Args:
        engine: the app's, with a ``StaticPool``.
    """

    def __init__(self, engine: Engine) -> None:
        dialect = engine.dialect
        self._dialect = copy(dialect)  # as it was
        self._is_async = dialect.is_async
        self._executing = threading.RLock()
        self._holder: PoolProxiedConnection | None = None  # sitq's, while it is in a transaction
        self._caller: object = None  # the thread or the coroutine's task that is in it
        self._used_by_us: WeakSet[PoolProxiedConnection] = WeakSet()
        # No event tells when a statement, a commit or a rollback is over, or of all that a pool rolls back.
        if not self._is_async:
            for name in ("do_execute", "do_executemany", "do_execute_no_params"):
                setattr(dialect, name, self._in_turn(getattr(dialect, name)))
        for name in ("do_commit", "do_rollback"):
            setattr(dialect, name, self._ending(getattr(dialect, name)))
        if self._is_async:  # Here a cancellation does not cost the connection, as it does amid what the dialect does.
            event.listen(engine, "begin", self._wait, insert=True)  # before a listener of the app's that begins
            event.listen(engine, "before_cursor_execute", self._wait_to_execute, insert=True, retval=True)
            event.listen(engine, "commit", self._wait)
            event.listen(engine, "rollback", self._wait)
        event.listen(engine.pool, "close", self._forget)

    def dialect_to_read(self, engine: Engine) -> Dialect:
        """For an engine of sitq's that only reads. The app may be in a transaction, of which a read ends nothing."""
        dialect = copy(engine.dialect)
        dialect.do_rollback = leave_alone  # type: ignore[method-assign]  # of this copy only
        return dialect

    def dialect_to_write(self) -> Dialect:
        """For an engine of sitq's whose transactions ``take`` a turn; they give it back when they end."""
        dialect = copy(self._dialect)
        vars(dialect)[TURNS] = self

        def do_commit(dbapi_connection: PoolProxiedConnection) -> None:
            try:
                self._dialect.do_commit(dbapi_connection)
            except BaseException:
                do_rollback(dbapi_connection)
                raise
            self._holder = None

        def do_rollback(dbapi_connection: PoolProxiedConnection) -> None:
            if self._holder is dbapi_connection:
                try:
                    self._dialect.do_rollback(dbapi_connection)
                finally:
                    self._holder = None

        dialect.do_commit = do_commit  # type: ignore[method-assign]
        dialect.do_rollback = do_rollback  # type: ignore[method-assign]
        return dialect

    def note(self, connection: Connection) -> None:
        """Let nothing be rolled back when the pool gets this connection back, which is used by sitq."""
        self._used_by_us.add(connection.connection)

    def take(self, connection: Connection, timeout: float, begin: Callable[[], object]) -> None:
        """Begin a transaction of sitq's as soon as the app is in none."""
        deadline = time.monotonic() + timeout
        while not self._begun(connection.connection, begin):
            if time.monotonic() >= deadline:
                raise DatabaseLockedError(
                    "the one connection of the engine's StaticPool is in a transaction of yours: end it first, or "
                    "write in it, queue.enqueue_in(session, ...)"
                )
            self._pause()

    def _begun(self, holder: PoolProxiedConnection, begin: Callable[[], object]) -> bool:
        if self._is_async:
            return self._begun_if_free(holder, begin)
        if not self._executing.acquire(blocking=False):
            return False
        try:
            return self._begun_if_free(holder, begin)
        finally:
            self._executing.release()

    def _begun_if_free(self, holder: PoolProxiedConnection, begin: Callable[[], object]) -> bool:
        driver: Any = holder.driver_connection
        if driver is None:
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")  # in the driver's words
        if self._holder is not None or driver.in_transaction:
            return False
        self._holder, self._caller = holder, self._current()
        try:
            begin()
        except BaseException as error:
            if driver.in_transaction and not self._is_async:
                self._dialect.do_rollback(holder)
            self._holder = None
            if self._is_async and driver.in_transaction and isinstance(error, Exception):
                return False  # A statement of the app's was on its way, and has begun one.
            raise
        return True

    def _forget(self, dbapi_connection: object, record: object) -> None:
        """Its one connection is closed, and so is the transaction that it was in."""
        self._holder = None

    def _current(self) -> object:
        return asyncio.current_task() if self._is_async else threading.get_ident()

    @property
    def _is_within(self) -> bool:
        """Whether the caller is in sitq's transaction: a listener of the app's, or the garbage collector."""
        return self._holder is not None and self._caller == self._current()

    def _in_turn(self, execute: Callable[P, T]) -> Callable[P, T]:
        """Execute while sitq is in no transaction, or in one that this is part of."""

        @wraps(execute)
        def execute_in_turn(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._is_async:
                self._wait()
                return execute(*args, **kwargs)
            while True:
                with self._executing:
                    if self._holder is None or self._is_within:
                        return execute(*args, **kwargs)
                self._pause()

        return execute_in_turn

    def _ending(self, end: Callable[[PoolProxiedConnection], None]) -> Callable[[PoolProxiedConnection], None]:
        """End the app's transaction; what is within sitq's has none of its own to end."""
        end_in_turn = self._in_turn(end)

        @wraps(end)
        def end_own(dbapi_connection: PoolProxiedConnection) -> None:
            if not (self._is_within or dbapi_connection in self._used_by_us):
                end_in_turn(dbapi_connection)

        return end_own

    def _wait(self, *_: object) -> None:
        while self._holder is not None and not self._is_within:
            self._pause()

    def _wait_to_execute(self, connection: object, cursor: object, statement: str, *execution: Any) -> tuple[str, Any]:
        self._wait()
        return statement, execution[0]

    def _pause(self) -> None:
        """Let others go on: the event loop of this greenlet, or other threads."""
        if self._is_async:
            await_only(asyncio.sleep(POLL))
        else:
            time.sleep(POLL)


_making = threading.Lock()


def turns_on(engine: Engine) -> Turns:
    """The turns on the one connection of this engine's pool, the same ones for all who ask.

    Engines that share a pool share their dialect, or have a copy of it, and a pool that is disposed of has a successor.
    """
    known = vars(engine.dialect)
    with _making:
        if TURNS not in known:
            known[TURNS] = Turns(engine)
        turns: Turns = known[TURNS]
        return turns


def leave_alone(dbapi_connection: PoolProxiedConnection) -> None:
    """Do not roll back."""
