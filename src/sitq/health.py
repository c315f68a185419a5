"""What an operator is told: how a database is, what a check of it found, what could be salvaged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a database was when it was looked at. What could not be found out has its default.

    Attributes:
        is_healthy: whether it answered, is sound as far as was looked, and can be written.
        error: why not; ``None`` if it is healthy.
        database_size_mb: how large it is in megabytes, with the log and the shared memory beside the file.
        wal_size_mb: how large the write-ahead log is.
        free_space_mb: what is free on its disk; ``None`` where there is none of its own.
        journal_mode: SQLite's journal mode.
        schema_revision: the revision of the schema.
        oldest_due_at: since when the first of the waiting tasks that are due has been due; ``None`` if none is.
        active_connections: connections in use just now, of both pools.
        avg_query_time: milliseconds that a statement took, the mean over the last minute and at most the
            latest thousand of this process; 0 if there were none.
    """

    is_healthy: bool
    error: str | None = None
    database_size_mb: float = 0.0
    wal_size_mb: float = 0.0
    free_space_mb: float | None = None
    journal_mode: str | None = None
    schema_revision: str | None = None
    oldest_due_at: datetime | None = None
    active_connections: int = 0
    avg_query_time: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of a database found.

    Attributes:
        problems: one line each, in the database's own words; at most a hundred.
    """

    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRows:
    """Rows of a damaged database that could not be salvaged.

    Attributes:
        table: the name of their table.
        first_rowid: the first of them, as SQLite numbers rows.
        last_rowid: the last; ``None`` where it is unknown how many there were.
        task_id: the id of the task, where an index still knew it; such a row stands alone.
        reason: what stood in the way.
    """

    table: str
    first_rowid: int
    last_rowid: int | None
    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What was salvaged of a damaged database, and what was not.

    Attributes:
        salvaged: how many rows of each table are in the new database.
        lost: what is not.
    """

    salvaged: dict[str, int]
    lost: tuple[LostRows, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not self.lost
