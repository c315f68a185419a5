"""The third door to a database: new tasks in a transaction of the app's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, Pool, Update, event, inspect, update
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from . import store
from .after_commit import wake_after_commit
from .claims import TaskRow
from .database import Database
from .engines import shown_url
from .exceptions import ConfigurationError, InvalidArgumentError, SchemaError
from .models import Models, TaskMixin, TaskStatus
from .store.announcing import announce
from .store.tables import table_of
from .task_tables import know_tasks, writes_tasks
from .wakeups import queue_topic

SyncTransaction: TypeAlias = Session | scoped_session[Any] | Connection
AsyncTransaction: TypeAlias = AsyncSession | async_scoped_session[Any] | AsyncConnection

_joined: WeakKeyDictionary[Session, set[Database]] = WeakKeyDictionary()
"""The sessions with tasks that wait to be flushed, or to be committed."""


class ThirdDoor:
    """Puts rows into transactions that an app begins and ends. It opens no connection and commits nothing.

    Args:
        database: where the rows belong.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: WeakSet[Pool] = WeakSet()

    def enqueue(self, transaction: object, rows: Sequence[TaskRow]) -> list[str]:
        """Add tasks to a session, or insert them over a connection; return the ids of those that stand."""
        self._require_ready()
        if isinstance(transaction, Connection):
            self._require_same(transaction.engine)
            return self._insert(transaction, transaction, rows)
        session = session_of(transaction)
        bind = self._bind_of(session)
        self._require_same(bind.engine)
        if all(row.get("unique_key") is None for row in rows):
            return self._add(session, rows)
        if not isinstance(transaction, Session | scoped_session):
            raise InvalidArgumentError(
                "whether a unique_key is free only the database knows, and an AsyncSession cannot be asked without "
                "await: use await queue.aenqueue_in(session, ...), or aenqueue_many_in"
            )
        owner = bind if isinstance(bind, Connection) else session
        with self._database.translated():
            return self._insert(session.connection(bind_arguments=bind_arguments(self._models)), owner, rows)

    async def aenqueue(self, transaction: object, rows: Sequence[TaskRow]) -> list[str]:
        """The same for an async session or connection, which can thus be asked for unique keys."""
        if isinstance(transaction, AsyncConnection):
            return await transaction.run_sync(self.enqueue, rows)
        if isinstance(transaction, async_scoped_session):
            transaction = transaction()
        if not isinstance(transaction, AsyncSession):
            raise InvalidArgumentError(
                f"aenqueue_in takes an AsyncSession or an AsyncConnection, not {kind_of(transaction)}; "
                f"a sync one goes to enqueue_in"
            )
        return await transaction.run_sync(self.enqueue, rows)

    @property
    def _models(self) -> Models:
        return self._database.models

    def _add(self, session: Session, rows: Sequence[TaskRow]) -> list[str]:
        join(session, self._database)
        session.add_all([self._models.task(**row) for row in rows])
        return [row["id"] for row in rows]

    def _insert(self, connection: Connection, owner: Session | Connection, rows: Sequence[TaskRow]) -> list[str]:
        """Insert rows at once; ``owner`` says when they are committed."""
        with self._database.translated():
            ids = store.enqueue(connection, self._database.models, rows)
        wake_after_commit(owner, self._database.wakeups, {queue_topic(row.get("queue", "default")) for row in rows})
        return ids

    def _require_ready(self) -> None:
        """Raise unless rows may be written, and the tables for them are known to be there."""
        self._database.require_writable()
        if not self._database.has_tables:
            raise SchemaError(
                f"it is not known whether {self._database.target} has the tables of sitq, and your transaction is no "
                f"place to make them: call backend.initialize(), or await backend.ainitialize(), when your app starts"
            )

    def _bind_of(self, session: Session) -> Engine | Connection:
        try:
            return session.get_bind(**bind_arguments(self._models))
        except UnboundExecutionError as error:
            task, target = self._models.task.__name__, self._database.target
            raise ConfigurationError(f"the session is bound to no database for {task}: bind it to {target}") from error

    def _require_same(self, engine: Engine) -> None:
        """Raise unless this engine leads to the database where the queue's workers look for tasks."""
        if engine.pool in self._known:
            return
        if not self._database.is_reached_by(engine):
            raise ConfigurationError(
                f"the transaction is in the database {shown_url(engine.url)}, where no worker would find the task: "
                f"the queue's is {self._database.target}. If they are one, lend the engine: SQLAlchemyBackend(engine)"
            )
        know_tasks(engine, self._models)
        self._database.dialect.join(engine)
        event.listen(engine, "handle_error", hide_parameters)
        self._known.add(engine.pool)


def session_of(transaction: object) -> Session:
    """The sync session in, or behind, what an app gave."""
    if isinstance(transaction, scoped_session | async_scoped_session):
        transaction = transaction()
    if isinstance(transaction, AsyncSession):
        return transaction.sync_session
    if isinstance(transaction, Session):
        return transaction
    if isinstance(transaction, AsyncConnection):
        raise InvalidArgumentError(
            "an AsyncConnection is to be awaited: use await queue.aenqueue_in(connection, function, ...), or "
            "await connection.run_sync(lambda sync: queue.enqueue_in(sync, function, ...))"
        )
    raise InvalidArgumentError(
        f"enqueue_in takes the session or connection of your transaction first: a Session, scoped_session, "
        f"AsyncSession or Connection, not {kind_of(transaction)}"
    )


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of type {type(value).__name__}"


def bind_arguments(models: Models) -> dict[str, Any]:
    """What a session is told to find the engine for tasks. It is to write, in case it knows replicas to read from."""
    return {"mapper": inspect(models.task), "clause": write_to(models.task)}


@lru_cache
def write_to(task: type[TaskMixin]) -> Update:
    """A statement that stands for any that writes."""
    return update(table_of(task))


def hide_parameters(context: ExceptionContext) -> None:
    """Keep calls and keys out of the message where a task is refused, whatever the engine shows of other rows."""
    if context.sqlalchemy_exception is not None and writes_tasks(context):
        context.sqlalchemy_exception.hide_parameters = True


def join(session: Session, database: Database) -> None:
    """Have tasks of this database told of when the session has flushed them."""
    listen_to_sessions()
    _joined.setdefault(session, set()).add(database)


@cache
def listen_to_sessions() -> None:
    """Hear of the flushes of all sessions; most of them are passed over at once."""
    event.listen(Session, "after_flush", after_flush)


def after_flush(session: Session, context: object) -> None:
    """Tell of the tasks that a session has just flushed, in its transaction, so that none is told of before."""
    for database in _joined.get(session, ()):
        task = database.models.task
        tasks = [each for each in session.new if isinstance(each, task) and each.status == TaskStatus.QUEUED]
        if tasks:
            tell(session, database, tasks)


def tell(session: Session, database: Database, tasks: Sequence[TaskMixin]) -> None:
    """Send the news of tasks with the session's commit, and wake who waits in this process after it."""
    arguments = bind_arguments(database.models)
    bind = session.get_bind(**arguments)
    due_in = {queue_topic(task.queue) for task in tasks if not task.scheduled}
    announce(session.connection(bind_arguments=arguments), database.models, due_in)
    owner = bind if isinstance(bind, Connection) else session
    wake_after_commit(owner, database.wakeups, {queue_topic(task.queue) for task in tasks})
