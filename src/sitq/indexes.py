"""The indexes of a table of tasks: one for each question that a worker asks."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Index, column, text

WITH_PARTIAL_INDEXES = ("sqlite", "postgresql")
"""The dialects of databases whose indexes may leave rows out."""


TIMED = ("status", "scheduled", "retry_count", "queue", "due_at", "created_at")
"""What a task counts as, then its times: groups of them need no sorting, and where the index holds all tasks, the first
time of each is found by a seek."""


class PartialIndex(Index):
    """An index of the rows ``where`` something holds; of all rows, in databases that cannot leave any out.

    SQLAlchemy imports the dialects that an index has options for, which takes long. So these are set when
    somebody asks for options: to make the index, to compare it, to write a migration.
    """

    def __init__(self, name: str, *parts: str | ColumnElement[Any], where: ColumnElement[bool], unique: bool = False):
        super().__init__(name, *parts, unique=unique)
        self._where = where

    @cached_property
    def dialect_options(self) -> Any:
        """The options of each dialect, as ``Index`` has them."""
        options = super().dialect_options
        for dialect in WITH_PARTIAL_INDEXES:
            options[dialect]["where"] = self._where
        return options


def task_indexes(table_name: str) -> tuple[Index, ...]:
    """The indexes of a task table.

    Due tasks in the order of the claim, future ones, leases, those that neither wait nor run, waiting ones that have a
    time or were tried before, and held keys. Each task is in one of due, future, leases and history, as long as
    ``scheduled`` is true or false; what is in two, since somebody wrote it by hand, is in history with the status of
    another one. So tasks are counted there.
    """
    due = (column("status") == text("'queued'")) & (column("scheduled") == text("FALSE"))
    future = (column("status") == text("'queued'")) & (column("scheduled") == text("TRUE"))
    running = column("status") == text("'running'")
    held = column("unique_key").is_not(None)
    is_elsewhere = text("status NOT IN ('queued', 'running')")
    over = column("completed_at").is_not(None) | column("status").is_(None) | is_elsewhere
    timed = (column("status") == text("'queued'")) & (
        column("due_at").is_not(None) | (column("retry_count") > text("0"))
    )
    return (
        PartialIndex(
            f"ix_{table_name}_claim", "status", "scheduled", "queue", column("priority").desc(), "id", where=due
        ),
        PartialIndex(f"ix_{table_name}_due", "status", "scheduled", "due_at", where=future),
        PartialIndex(f"ix_{table_name}_lease", "status", "lease_until", where=running),
        PartialIndex(f"ix_{table_name}_history", "queue", "status", "completed_at", where=over),
        PartialIndex(f"ix_{table_name}_timed", *TIMED, where=timed),
        PartialIndex(f"uq_{table_name}_unique_key", "unique_key", unique=True, where=held),
    )
