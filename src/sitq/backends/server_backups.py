"""Backups of databases on servers: SQLite files, which the copy job writes and reads.

So a backup of any kind of database can be restored into any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from .. import store
from ..copy_ends import DatabaseSource, DatabaseTarget
from ..copy_report import CopyReport
from ..copying import CopyJob
from ..database import Database
from ..dialect import Progress
from ..exceptions import BackendError, DatabaseCorruptError
from ..models import OWN_MODELS
from ..transaction import Transaction
from .sqlite_copies import beside, flush, require_replaceable
from .sqlite_dialect import SQLiteDialect
from .sqlite_options import MEMORY, SQLiteOptions, check_pool
from .sqlite_restoring import ready_copy

TakingOver: TypeAlias = Callable[[Sequence[str]], Iterable[str]]
"""Makes, of the quoted names of the tables, the statements that a restore begins with."""

# A file that has no name yet: nobody else sees it, and if this process dies it is worth nothing.
NAMELESS: Final = SQLiteOptions(
    database=MEMORY,
    journal_mode="OFF",
    synchronous="OFF",
    connection_timeout=30.0,
    checkpoint_interval=None,
    cache_size=None,
    temp_store=None,
    read_only=False,
    log_queries=False,
    pool=check_pool(1, 1, 30.0, None),
    memory_name="",
)


def back_up(database: Database, target: Path, progress: Progress | None) -> None:
    """Write what a database holds at one moment to a file that has its name only when it is whole and checked."""
    require_replaceable(NAMELESS, target)
    with beside(target, ".part") as part:
        written = file_database(NAMELESS.at(part), target)
        try:
            with Transaction(database, database.connect_to_snapshot) as snapshot:
                copied = CopyJob(DatabaseSource(snapshot), DatabaseTarget(written), progress=progress).run()
            require_verified(copied, f"the backup {target}")
            require_sound(written)
        finally:
            written.close()
        flush(part)
        part.replace(target)
    flush(target.parent)


def restore(database: Database, taking_over: TakingOver, source: Path, paused: bool, progress: Progress | None) -> None:
    """Put the content of a backup in the place of a database's, in one transaction.

    The backup is checked, upgraded and revived on a copy first. What ``taking_over`` gives keeps others
    from writing until the commit.
    """
    with ready_copy(NAMELESS, source, OWN_MODELS, paused, SQLiteDialect) as copy:
        saved = file_database(copy, source)
        try:
            with Transaction(database, database.connect_to_write) as transaction:
                transaction.execute(taking_over(transaction.read(store.table_names)))
                transaction.write(store.delete_everything)
                restored = CopyJob(DatabaseSource(saved), DatabaseTarget(transaction), progress=progress).run()
                require_verified(restored, f"what was restored from {source}")
        finally:
            saved.close()


def file_database(options: SQLiteOptions, name: Path) -> Database:
    """The database in the file of a backup, which messages call by this name."""
    return Database(SQLiteDialect(options), OWN_MODELS, auto_upgrade=True, target=str(name))


def require_verified(report: CopyReport, name: str) -> None:
    """Raise unless every row came out as it was."""
    if not report.complete:
        differing = ", ".join((*report.differing_ids, *report.conflict_ids)[:3])
        raise BackendError(f"{name} differs from what was read: {differing}; nothing was changed")


def require_sound(written: Database) -> None:
    """Raise unless every page and reference of the file is as it should be."""
    if problems := written.dialect.check().problems:
        raise DatabaseCorruptError(f"the backup {written.target} is damaged: {problems[0]}")
