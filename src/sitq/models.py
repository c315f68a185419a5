"""The schema: ``Task``, ``Result`` and ``QueueState``, declarative models that are plain records too.

The mixins hold the columns, so that an app may own the tables under names of its own; the models at
the end are sitq's. The documented columns stand first, as revision ``0001`` makes them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, cast

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    ForeignKeyConstraint,
    FromClause,
    Insert,
    Integer,
    MetaData,
    Select,
    Table,
    TableClause,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.types import TypeEngine

from .columns import Key, LongText, Moment, Payload, Real, Word, sql_false, utc_now
from .exceptions import BackendError, InvalidArgumentError
from .indexes import task_indexes
from .task_times import TaskTimes

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

ZERO = text("0")


class TaskStatus(enum.StrEnum):
    """Where a task is in its life; each member equals the string that the column holds."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @classmethod
    def parse(cls, status: str) -> TaskStatus:
        """Return the status with this name; raise ``InvalidArgumentError`` if there is none."""
        try:
            return cls(status)
        except ValueError:
            raise InvalidArgumentError(f"status={status!r} is not allowed: give one of {cls.names()}") from None

    @classmethod
    def read(cls, column: str | None) -> TaskStatus:
        """Return the status that a row holds, NULL being ``queued``; raise ``BackendError`` for any other text."""
        try:
            return cls(column or cls.QUEUED)
        except ValueError:
            raise BackendError(
                f"a task in the database has the status {column!r}, written by hand; correct it to one of {cls.names()}"
            ) from None

    @classmethod
    def names(cls) -> str:
        """Return the allowed texts, for a message."""
        return ", ".join(repr(member.value) for member in cls)

    @property
    def ended(self) -> bool:
        """Whether a task in this status will not run again by itself."""
        return self is not TaskStatus.QUEUED and self is not TaskStatus.RUNNING


class TaskMixin(TaskTimes, MappedAsDataclass, kw_only=True, repr=False, eq=False):
    """The columns of a task. Times are aware and in UTC, durations are seconds."""

    id: Mapped[str] = mapped_column(Key, primary_key=True)
    function: Mapped[bytes] = mapped_column(Payload)
    args: Mapped[bytes | None] = mapped_column(Payload, default=None)
    kwargs: Mapped[bytes | None] = mapped_column(Payload, default=None)
    priority: Mapped[int | None] = mapped_column(Integer, server_default=ZERO, default=0)
    status: Mapped[str | None] = mapped_column(Word, server_default=text("'queued'"), default=TaskStatus.QUEUED.value)
    created_at: Mapped[datetime | None] = mapped_column(Moment, server_default=utc_now(), default=None)
    started_at: Mapped[datetime | None] = mapped_column(Moment, default=None)
    completed_at: Mapped[datetime | None] = mapped_column(Moment, default=None)
    retry_count: Mapped[int | None] = mapped_column(Integer, server_default=ZERO, default=0)
    max_retries: Mapped[int | None] = mapped_column(Integer, server_default=ZERO, default=0)
    error_message: Mapped[str | None] = mapped_column(LongText, default=None)

    # Scheduling (0002). `scheduled` parts waiting tasks from due ones, so that a claim is one index seek;
    # `unique_key` is held while the task is unfinished; `options` is JSON that only a worker reads.
    name: Mapped[str | None] = mapped_column(LongText, default=None)
    queue: Mapped[str] = mapped_column(Word, server_default=text("'default'"), default="default")
    due_at: Mapped[datetime | None] = mapped_column(Moment, default=None)
    scheduled: Mapped[bool] = mapped_column(Boolean, server_default=sql_false(), default=False)
    expires_at: Mapped[datetime | None] = mapped_column(Moment, default=None)
    timeout: Mapped[float | None] = mapped_column(Real, default=None)
    unique_key: Mapped[str | None] = mapped_column(Key, default=None)
    options: Mapped[str | None] = mapped_column(LongText, default=None)

    # Leases (0003). `worker_id` and `claim_count` together are the fencing token of one claim.
    worker_id: Mapped[str | None] = mapped_column(Word, default=None)
    claim_count: Mapped[int] = mapped_column(Integer, server_default=ZERO, default=0)
    lease_until: Mapped[datetime | None] = mapped_column(Moment, default=None)
    crash_count: Mapped[int] = mapped_column(Integer, server_default=ZERO, default=0)
    isolated: Mapped[bool] = mapped_column(Boolean, server_default=sql_false(), default=False)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, server_default=sql_false(), default=False)
    progress: Mapped[float | None] = mapped_column(Real, default=None)
    progress_note: Mapped[str | None] = mapped_column(LongText, default=None)

    # Tracebacks (0004): a JSON list, one entry an attempt that failed, the oldest first.
    errors: Mapped[str | None] = mapped_column(LongText, default=None)

    @classmethod
    def __table_cls__(cls, name: str, *args: Any, **kwargs: Any) -> Table:
        """Make the table with an index for each question that a worker asks, whatever ``__table_args__`` say."""
        make: Callable[..., Table] = getattr(super(), "__table_cls__", Table)
        return make(name, *args, *task_indexes(name), **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, name={self.name!r}, status={self.status!r})"


class ResultMixin(MappedAsDataclass, kw_only=True, repr=False, eq=False):
    """The columns of a result: how a task ended. ``value`` holds what the serializer wrote."""

    task_id: Mapped[str] = mapped_column(Key, primary_key=True)
    value: Mapped[bytes | None] = mapped_column(Payload, default=None)
    is_error: Mapped[bool | None] = mapped_column(Boolean, server_default=sql_false(), default=False)
    error_message: Mapped[str | None] = mapped_column(LongText, default=None)
    completed_at: Mapped[datetime | None] = mapped_column(Moment, server_default=utc_now(), default=None)

    # Tracebacks (0004): the worker's, and the dotted name of the exception's class.
    error_type: Mapped[str | None] = mapped_column(LongText, default=None)
    traceback: Mapped[str | None] = mapped_column(LongText, default=None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task_id={self.task_id!r}, is_error={self.is_error!r})"


class QueueStateMixin(MappedAsDataclass, kw_only=True, eq=False):
    """The columns of a queue's state; a queue without a row runs."""

    name: Mapped[str] = mapped_column(Key, primary_key=True)
    paused_at: Mapped[datetime | None] = mapped_column(Moment, default=None)


class Base(DeclarativeBase):
    """The registry of sitq's own tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Task(TaskMixin, Base):
    """A call that was enqueued: what to run, when, and how far it has come."""

    __tablename__ = "tasks"


class Result(ResultMixin, Base):
    """How a task ended: its value, or its error."""

    __tablename__ = "results"
    __table_args__ = (ForeignKeyConstraint(["task_id"], ["tasks.id"]),)


class QueueState(QueueStateMixin, Base):
    """Whether a queue is paused."""

    __tablename__ = "sitq_queues"


@dataclass(frozen=True)
class Models:
    """The mapped classes of one set of tables: sitq's own, or an app's, which ``declare_models`` makes.

    Attributes:
        task: the class of tasks.
        result: the class of results.
        queue_state: the class that says which queues are paused.
        app_owned: whether an app makes and upgrades the tables, and sitq only looks whether they are as they must be.
    """

    task: type[TaskMixin]
    result: type[ResultMixin]
    queue_state: type[QueueStateMixin]
    app_owned: bool = True

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        """The tables of tasks, of results and of queues."""
        task, result, queue_state = (cast(Any, model).__table__ for model in (self.task, self.result, self.queue_state))
        return task, result, queue_state


OWN_MODELS = Models(task=Task, result=Result, queue_state=QueueState, app_owned=False)


TaskSelect: TypeAlias = Select[Any]
"""A statement that selects tasks, such as ``select(Task).where(Task.is_due)``."""


class BulkInsert(Protocol):
    """Inserts rows faster than an INSERT of each."""

    def __call__(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        rows: Iterable[tuple[Any, ...]],
        *,
        replacing: bool = False,
    ) -> bool:
        """Insert rows, which have these columns; say ``False``, before any is read, if it cannot over this driver.

        If it is ``replacing``, rows with the same key give way, and of several new ones the last one counts.
        """
        ...


@dataclass(frozen=True)
class RowsAsTable:
    """Lets rows be read like a table by the statement that they are sent with.

    Attributes:
        clause: makes the table of these columns.
        parameters: makes what the statement is executed with; each row has a value for each column.
    """

    clause: Callable[[Mapping[str, TypeEngine[Any]]], FromClause]
    parameters: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class StoreModels(Models):
    """The mapped classes, and how their database likes to be asked.

    Attributes:
        news: makes the expression that sends a topic to other processes with the commit; ``None`` where
            nobody can hear it.
        claims_at_once: whether a claim selects and leases in one statement.
        index_hint: what makes a statement use an index, which the braces stand for, whatever the statistics say;
            ``None`` where that is not needed, and an index may hold some of the rows only.
        insert_if_free: makes the INSERT that does nothing where it would meet a unique index.
        insert_or_replace: makes the INSERT that overwrites the row with the same key, the column that is named.
        bulk_insert: see ``BulkInsert``; ``None`` where the driver itself is as fast.
        rows_as_table: see ``RowsAsTable``; ``None`` where a statement for each row is as fast.
    """

    news: Callable[[ColumnElement[str]], ColumnElement[Any]] | None = None
    claims_at_once: bool = False
    index_hint: str | None = None
    insert_if_free: Callable[[TableClause], Insert] | None = None
    insert_or_replace: Callable[[TableClause, str], Insert] | None = None
    bulk_insert: BulkInsert | None = None
    rows_as_table: RowsAsTable | None = None
