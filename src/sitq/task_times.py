"""What the times of a task say, in Python and in SQL: whether it is due, how old it is, how long it has run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, case, or_
from sqlalchemy.ext.hybrid import hybrid_property

from .columns import database_now, seconds_between

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapped

QUEUED, RUNNING = "queued", "running"


class TaskTimes:
    """The part of ``TaskMixin`` that is computed. In SQL the database's clock counts, in Python this machine's."""

    if TYPE_CHECKING:
        status: Mapped[str | None]
        created_at: Mapped[datetime | None]
        due_at: Mapped[datetime | None]
        started_at: Mapped[datetime | None]
        completed_at: Mapped[datetime | None]

    @hybrid_property
    def is_due(self) -> bool:
        """Whether the task waits for a worker and its time has come."""
        return (self.status or QUEUED) == QUEUED and (self.due_at is None or self.due_at <= datetime.now(UTC))

    @is_due.inplace.expression
    @classmethod
    def _is_due_in_sql(cls) -> ColumnElement[bool]:
        return (cls.status == QUEUED) & or_(cls.due_at.is_(None), cls.due_at <= database_now())

    @hybrid_property
    def age(self) -> float | None:
        """Seconds since the task was enqueued."""
        return None if self.created_at is None else (datetime.now(UTC) - self.created_at).total_seconds()

    @age.inplace.expression
    @classmethod
    def _age_in_sql(cls) -> ColumnElement[float | None]:
        return seconds_between(cls.created_at, database_now())

    @hybrid_property
    def run_time(self) -> float | None:
        """Seconds that the last attempt took, or has taken so far; ``None`` if none was begun, or it is over."""
        end = datetime.now(UTC) if self.status == RUNNING else self.completed_at
        return None if self.started_at is None or end is None else (end - self.started_at).total_seconds()

    @run_time.inplace.expression
    @classmethod
    def _run_time_in_sql(cls) -> ColumnElement[float | None]:
        end = case((cls.status == RUNNING, database_now()), else_=cls.completed_at)
        return seconds_between(cls.started_at, end)
