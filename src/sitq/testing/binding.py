"""A backend whose verbs run in a transaction of the test's own, which is rolled back in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from ..backends.base import BaseBackend
from ..backends.sql import SQLAlchemyBackend
from ..database import Database
from ..exceptions import ConfigurationError, InvalidArgumentError, NotAvailableError
from ..joining import bind_arguments
from ..models import StoreModels
from ..task_transaction import SESSION_OPTIONS, AsyncSessionTransaction, SessionTransaction

P = ParamSpec("P")
T = TypeVar("T")

AppTransaction: TypeAlias = (
    Session | scoped_session[Any] | Connection | AsyncSession | async_scoped_session[Any] | AsyncConnection
)
"""What a test's rolled-back transaction may be given as."""


class BoundDatabase:
    """The doors of a ``Database``, all of them into one transaction. What is no door is the database's own.

    Writes are done at savepoints, so that one that is refused leaves the transaction usable.
    """

    def __init__(self, database: Database, transaction: AppTransaction) -> None:
        self._database = database
        self._transaction = unscoped(transaction)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def connection(self) -> Connection:
        """The connection of the transaction, with all that the session holds flushed to it."""
        inner = flush(self._transaction)
        if isinstance(inner, AsyncConnection):
            return inner.sync_connection or _not_begun()
        if isinstance(inner, Connection):
            return inner
        session = inner.sync_session if isinstance(inner, AsyncSession) else inner
        return session.connection(bind_arguments=bind_arguments(self._database.models))

    def forget_loaded(self) -> None:
        """Let the session load anew what tasks may have changed; an async one cannot do so by itself."""
        if isinstance(self._transaction, Session):
            self._transaction.expire_all()

    # The doors.

    def read(self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Database``; so for every door."""
        connection = self.connection()
        with self._database.translated(), Session(connection, expire_on_commit=False) as session:
            return function(session, self._database.models, *args, **kwargs)

    read_in_transaction = read

    def look(self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Database``."""
        connection = self.connection()
        with self._database.translated():
            return function(connection, self._database.models, *args, **kwargs)

    def write(self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See ``Database``."""
        connection = self.connection()
        with self._database.translated(), connection.begin_nested() as savepoint:
            return function(savepoint.connection, self._database.models, *args, **kwargs)

    def write_rows(
        self,
        function: Callable[[Any, StoreModels, Sequence[Any]], list[T]],
        rows: Sequence[Any],
        *,
        alone: bool = False,
    ) -> list[T]:
        """See ``Database``. No statement is a transaction of its own here."""
        return self.write(function, rows)

    async def aread(
        self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See ``Database``."""
        return await greenlet_spawn(lambda: self.read(function, *args, **kwargs))

    async def alook(
        self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See ``Database``."""
        return await greenlet_spawn(lambda: self.look(function, *args, **kwargs))

    async def awrite(
        self, function: Callable[Concatenate[Any, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See ``Database``."""
        return await greenlet_spawn(lambda: self.write(function, *args, **kwargs))

    async def awrite_rows(
        self,
        function: Callable[[Any, StoreModels, Sequence[Any]], list[T]],
        rows: Sequence[Any],
        *,
        alone: bool = False,
    ) -> list[T]:
        """See ``Database``."""
        return await greenlet_spawn(lambda: self.write(function, rows))

    def open(self) -> None:
        """The tables are there, or the test's own statements would fail."""

    async def aopen(self) -> None:
        """See ``open``."""

    def open_to_write(self) -> None:
        """See ``open``."""
        self._database.require_writable()

    # Transactions of tasks: savepoints of this one.

    def transact(self, work: Callable[[SessionTransaction], T]) -> T:
        """See ``Transactions``."""
        with Session(self.connection(), join_transaction_mode="create_savepoint", **SESSION_OPTIONS) as session:
            return work(SessionTransaction(self._database, session))

    async def atransact(self, work: Callable[[AsyncSessionTransaction], Awaitable[T]]) -> T:
        """See ``Transactions``."""
        if isinstance(self._transaction, AsyncSession):
            await self._transaction.flush()
            connection = await self._transaction.connection(bind_arguments=bind_arguments(self._database.models))
        elif isinstance(self._transaction, AsyncConnection):
            connection = self._transaction
        else:
            raise NotAvailableError(
                "an async transactional task needs an AsyncSession, and the test's transaction is a sync one: "
                "let the fixture sitq_session give an AsyncSession"
            )
        session = AsyncSession(connection, join_transaction_mode="create_savepoint", **SESSION_OPTIONS)
        async with session:
            return await work(AsyncSessionTransaction(self._database, session))


def unscoped(transaction: object) -> Session | Connection | AsyncSession | AsyncConnection:
    """The session or connection itself."""
    if isinstance(transaction, scoped_session | async_scoped_session):
        transaction = transaction()
    if not isinstance(transaction, Session | Connection | AsyncSession | AsyncConnection):
        raise InvalidArgumentError(
            "a test's transaction is a Session, scoped_session, AsyncSession or connection, "
            f"not {type(transaction).__name__}"
        )
    return transaction


def is_usable_here(transaction: object) -> bool:
    """Whether this code can use a transaction: an async one only where it can be awaited."""
    return in_greenlet() or not isinstance(transaction, AsyncSession | async_scoped_session | AsyncConnection)


def flush(transaction: AppTransaction) -> Session | Connection | AsyncSession | AsyncConnection:
    """Flush what a session holds; return the session or connection itself."""
    inner = unscoped(transaction)
    if not is_usable_here(inner):
        raise InvalidArgumentError(
            "the test's transaction is an async one, so its verbs are to be awaited: await sitq_testing.adrain(), "
            "aassert_enqueued(...), arefute_enqueued(...), aenqueued(...); and TaskQueue instead of SyncTaskQueue"
        )
    if isinstance(inner, AsyncSession):
        inner.sync_session.flush()
    elif isinstance(inner, Session):
        inner.flush()
    return inner


def _not_begun() -> Connection:
    raise InvalidArgumentError("the AsyncConnection has not been started: await it, or use it in an async with")


on_this_loop = greenlet_spawn
"""Runs sync code on an event loop, so that it can use an async session's connection, and ``wait_here``."""


def wait_here(value: Awaitable[Any]) -> Any:
    """Await, in code that ``on_this_loop`` runs; a coroutine gets the context variables of this code."""
    return await_only(asyncio.ensure_future(value))


@contextmanager
def bound(backend: BaseBackend, transaction: AppTransaction) -> Iterator[BoundDatabase]:
    """Let all verbs of a backend run in this transaction, until the block ends."""
    if not isinstance(backend, SQLAlchemyBackend):
        raise ConfigurationError(
            f"{type(backend).__name__} keeps its tasks in no database that the test's transaction could be in"
        )
    database = backend._database
    made = BoundDatabase(database, transaction)
    had_tables, database.has_tables = database.has_tables, True
    # Instance attributes shadow the verbs; what was made over the database before would still use its doors.
    changed: dict[str, Any] = {"_database": made, "transact": made.transact, "atransact": made.atransact}
    before = {name: vars(backend)[name] for name in (*changed, "_third_door") if name in vars(backend)}
    vars(backend).update(changed)
    vars(backend).pop("_third_door", None)
    try:
        yield made
    finally:
        database.has_tables = had_tables
        for name in (*changed, "_third_door"):
            vars(backend).pop(name, None)
        vars(backend).update(before)
