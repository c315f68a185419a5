"""The transaction of a task: its function's session, in which the task's completion is committed too.

The session takes a connection and begins when it is first used, so that the transaction is as short as the
function lets it be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from . import store
from .claims import Outcome, Progress
from .database import Database
from .exceptions import TaskError
from .holding import holding
from .unbroken import unbroken
from .wakeups import RESULTS

T = TypeVar("T")

SESSION_OPTIONS: dict[str, Any] = {"expire_on_commit": False, "close_resets_only": False}
"""Of a task's session. One that its function has closed stays so, since what it did there is lost."""


COMMITS_ITSELF = (
    "a transactional task does not commit its session: the worker does, together with the task's completion, when "
    "the function has returned; session.begin_nested() makes a savepoint"
)


class SessionTransaction:
    """The transaction of one attempt, over a session that nobody else commits."""

    def __init__(self, database: Database, session: Session) -> None:
        self.session = session
        self._database = database
        self._begun_at: float | None = None
        self._is_completing = False
        self._watched: Connection | None = None
        event.listen(session, "after_begin", self._note_beginning)
        event.listen(session, "after_transaction_end", self._note_end)
        event.listen(session, "before_commit", self._refuse_commit)

    @property
    def begun_at(self) -> float | None:
        """When the transaction began, by ``time.monotonic``; ``None`` as long as it has not."""
        return self._begun_at

    def complete(self, outcome: Outcome, progress: Progress | None = None) -> bool:
        """Commit with the task's completion, or roll back if the claim no longer holds; say which."""
        self._require_open()
        self.session.flush()
        if not self._write(outcome, progress):
            self.session.rollback()
            return False
        self._commit()
        self._database.wakeups.notify([RESULTS])
        return True

    def _require_open(self) -> None:
        if self.session.in_transaction():
            return
        try:
            self.session.begin()  # as the next statement would
        except InvalidRequestError as error:
            raise TaskError(
                "a transactional task neither closes its session nor uses it in a with block, which closes it: "
                "the worker commits it when the function has returned, and what a closed one held is rolled back"
            ) from error

    def _commit(self) -> None:
        connection = self.session.connection()
        self._is_completing = True
        try:
            self.session.commit()
        except BaseException:
            # SQLite keeps open what it refused to commit, and SQLAlchemy takes it for ended.
            roll_back(connection)
            raise
        finally:
            self._is_completing = False

    def _write(self, outcome: Outcome, progress: Progress | None) -> bool:
        try:
            return store.complete(self.session, self._database.models, outcome, progress)
        except Exception as error:
            translation = self._database.translate(error)
            if translation is None:
                raise
            # SQLAlchemy's own error may show the parameters, and so the function's value.
            raise translation from getattr(error, "orig", None)

    def _note_beginning(self, session: Session, transaction: object, connection: Connection) -> None:
        if self._begun_at is None:
            self._begun_at = time.monotonic()
            self._watched = connection
            event.listen(connection, "commit", self._refuse_commit_below)

    def _note_end(self, session: Session, transaction: Any) -> None:
        if transaction.parent is None:
            self._begun_at = None
            if self._watched is not None:
                event.remove(self._watched, "commit", self._refuse_commit_below)
                self._watched = None

    def _refuse_commit(self, session: Session) -> None:
        if not (self._is_completing or session.in_nested_transaction()):
            raise TaskError(COMMITS_ITSELF)

    def _refuse_commit_below(self, connection: Connection) -> None:
        """Refuse a commit of the session's connection, of which the session would not hear."""
        if not self._is_completing:
            roll_back(connection)  # SQLAlchemy takes a transaction for ended whose commit was refused
            raise TaskError(COMMITS_ITSELF)


def roll_back(connection: Connection) -> None:
    """Roll back below SQLAlchemy; a connection that cannot be is not used again."""
    if connection.closed or connection.invalidated:
        return
    try:
        connection.connection.rollback()
    except Exception:  # the driver's, whichever it is
        connection.invalidate()


class AsyncSessionTransaction:
    """The same over an ``AsyncSession``."""

    def __init__(self, database: Database, session: AsyncSession) -> None:
        self.session = session
        self._inner = SessionTransaction(database, session.sync_session)

    @property
    def begun_at(self) -> float | None:
        """When the transaction began, by ``time.monotonic``; ``None`` as long as it has not."""
        return self._inner.begun_at

    async def complete(self, outcome: Outcome, progress: Progress | None = None) -> bool:
        """Commit with the task's completion, or roll back if the claim no longer holds; say which."""
        return await self.session.run_sync(lambda _: self._inner.complete(outcome, progress))


def transact(database: Database, work: Callable[[SessionTransaction], T]) -> T:
    """Call ``work`` with a transaction on this thread."""
    database.open_to_write()
    if database.dialect.has_sync_driver:
        return _transact(database, database.engine, work)
    return asyncio.run(_transact_on_a_loop(database, work))


def _transact(database: Database, engine: Engine, work: Callable[[SessionTransaction], T]) -> T:
    with Session(database.dialect.engine_for_tasks(engine), **SESSION_OPTIONS) as session:
        transaction = SessionTransaction(database, session)
        with holding(database, lambda: transaction.begun_at is not None):
            return work(transaction)


async def _transact_on_a_loop(database: Database, work: Callable[[SessionTransaction], T]) -> T:
    """Serve a sync function over an async driver, on an event loop that lives as long as the transaction."""
    engine = database.dialect.create_private_engine()
    try:
        return await greenlet_spawn(_transact, database, engine.sync_engine, work)
    finally:
        await engine.dispose()


async def atransact(database: Database, work: Callable[[AsyncSessionTransaction], Awaitable[T]]) -> T:
    """Call ``work`` with a transaction on this event loop."""
    await asyncio.to_thread(database.open_to_write)
    if database.dialect.reads_on_loops:
        return await _atransact(database, database.async_engine, work)
    # A pool's connections could not be closed from another loop, when this one has ended.
    engine = database.dialect.create_private_engine()
    try:
        return await _atransact(database, engine, work)
    finally:
        await unbroken(engine.dispose())


async def _atransact(
    database: Database, engine: AsyncEngine, work: Callable[[AsyncSessionTransaction], Awaitable[T]]
) -> T:
    facade = AsyncEngine(database.dialect.engine_for_tasks(engine.sync_engine))
    session = AsyncSession(facade, **SESSION_OPTIONS)
    try:
        transaction = AsyncSessionTransaction(database, session)
        with holding(database, lambda: transaction.begun_at is not None):
            return await work(transaction)
    finally:
        await unbroken(session.close())
