"""The one connection of a ``StaticPool``, which the app and sitq use by turns.

A transaction belongs to a connection, so whatever the app executes, commits or rolls back there while sitq is in a
transaction would be done to that one. The app therefore waits until it has ended, as it would for a lock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Dialect, Engine, Pool, PoolProxiedConnection
from sqlalchemy.util import await_only

from ..exceptions import DatabaseLockedError

P = ParamSpec("P")
T = TypeVar("T")
End = Callable[[PoolProxiedConnection], None]

POLL = 0.001
"""Between two looks at a connection that is in use, in seconds."""


class Turns:
    """Whose turn it is on one connection.

    Args:
        engine: the app's, with a ``StaticPool``.
    """

    def __init__(self, engine: Engine) -> None:
        dialect = engine.dialect
        self._dialect = copy(dialect)  # as it was
        self._turn = (
            threading.Lock()
        )  # held while sitq is in a transaction, and by a thread of the app's in a statement
        self._thread: int | None = None  # that holds it
        self._is_in_transaction = False  # sitq
        self._used_by_us: WeakSet[PoolProxiedConnection] = WeakSet()
        # No event tells when a commit or a rollback is over, or of all that a pool rolls back.
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(dialect, name, self._executing(getattr(dialect, name)))
        for name in ("do_commit", "do_rollback"):
            setattr(dialect, name, self._ending(getattr(dialect, name)))

    def dialect_to_read(self) -> Dialect:
        """For an engine of sitq's that only reads. The app may be in a transaction, of which a read ends nothing."""
        dialect = copy(self._dialect)
        dialect.do_rollback = leave_alone  # type: ignore[method-assign]  # of this copy only
        return dialect

    def dialect_to_write(self) -> Dialect:
        """For an engine of sitq's whose transactions ``take`` a turn; they give it back when they end."""
        dialect = copy(self._dialect)

        def do_commit(dbapi_connection: PoolProxiedConnection) -> None:
            try:
                self._dialect.do_commit(dbapi_connection)
            except BaseException:
                do_rollback(dbapi_connection)
                raise
            self._give_back()

        def do_rollback(dbapi_connection: PoolProxiedConnection) -> None:
            if self._is_in_transaction:
                try:
                    self._dialect.do_rollback(dbapi_connection)
                finally:
                    self._give_back()

        dialect.do_commit = do_commit  # type: ignore[method-assign]
        dialect.do_rollback = do_rollback  # type: ignore[method-assign]
        return dialect

    def note(self, connection: Connection) -> None:
        """Let nothing be rolled back when the pool gets this connection back, which is used by sitq."""
        self._used_by_us.add(connection.connection)

    def take(self, connection: Connection, timeout: float, begin: Callable[[], object]) -> None:
        """Begin a transaction of sitq's as soon as the app is in none."""
        driver = connection.connection.driver_connection
        deadline = time.monotonic() + timeout
        while not self._begun(driver, begin):
            if time.monotonic() >= deadline:
                raise DatabaseLockedError(
                    "the one connection of the engine's StaticPool is in a transaction of yours: end it first, or "
                    "write in it, queue.enqueue_in(session, ...)"
                )
            self._pause()

    def _begun(self, driver: Any, begin: Callable[[], object]) -> bool:
        if not self._turn.acquire(blocking=False):
            return False
        self._thread = threading.get_ident()
        try:
            if not driver.in_transaction:
                begin()
                self._is_in_transaction = True
        except Exception:
            if not driver.in_transaction:  # Otherwise a statement of the app's was on its way, and has begun one.
                raise
        finally:
            if not self._is_in_transaction:
                self._give_back()
        return self._is_in_transaction

    def _give_back(self) -> None:
        self._is_in_transaction, self._thread = False, None
        self._turn.release()

    @contextmanager
    def _turn_of_app(self) -> Iterator[None]:
        """Wait for sitq's transaction to end, and let it begin none meanwhile.

        An async driver executes in the order in which it was asked, so there the first is enough.
        """
        if self._dialect.is_async:
            while self._turn.locked():
                self._pause()
            yield
        else:
            with self._turn:
                self._thread = threading.get_ident()
                try:
                    yield
                finally:
                    self._thread = None

    @property
    def _is_within(self) -> bool:
        """Whether this thread has the turn: a listener or a function of the app's, or the garbage collector's call."""
        return not self._dialect.is_async and self._thread == threading.get_ident()

    def _executing(self, execute: Callable[P, T]) -> Callable[P, T]:
        @wraps(execute)
        def execute_in_turn(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._is_within:
                return execute(*args, **kwargs)
            with self._turn_of_app():
                return execute(*args, **kwargs)

        return execute_in_turn

    def _ending(self, end: End) -> End:
        @wraps(end)
        def end_in_turn(dbapi_connection: PoolProxiedConnection) -> None:
            if self._is_within or dbapi_connection in self._used_by_us:
                return
            with self._turn_of_app():
                end(dbapi_connection)

        return end_in_turn

    def _pause(self) -> None:
        """Let others go on: the event loop of this greenlet, or other threads."""
        if self._dialect.is_async:
            await_only(asyncio.sleep(POLL))
        else:
            time.sleep(POLL)


_turns: WeakKeyDictionary[Pool, Turns] = WeakKeyDictionary()
_turns_lock = threading.Lock()


def turns_on(engine: Engine) -> Turns:
    """The turns on the one connection of this engine's pool, the same ones for all who ask."""
    with _turns_lock:
        if engine.pool not in _turns:
            _turns[engine.pool] = Turns(engine)
        return _turns[engine.pool]


def leave_alone(dbapi_connection: PoolProxiedConnection) -> None:
    """Do not roll back."""
