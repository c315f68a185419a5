"""Salvaging what can be read of a damaged SQLite database into a new one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..database import Database
from ..exceptions import BackendError, DatabaseCorruptError, DatabasePermissionError
from ..health import LostRows, RecoveryReport
from ..models import OWN_MODELS
from .operations import check_file
from .sqlite_connections import connect
from .sqlite_copies import beside, flush, naming, require_sound
from .sqlite_dialect import SQLiteDialect
from .sqlite_files import JOURNAL, LOG
from .sqlite_options import SQLiteOptions
from .sqlite_salvage import Gap, indexed_keys, read_rows

TABLES = {"sitq_queues": "name", "tasks": "id", "results": "task_id"}
"""The tables in the order in which they are written, and the key of each."""

HEADER = 100
"""Bytes at the beginning of a database that say how large its pages are, and how many there are."""


def recover(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> RecoveryReport:
    """Salvage what can be read of a damaged SQLite database into a new one, row by row.

    The source is not changed; nobody should write to it meanwhile. The new database has the present schema, and
    appears under its name only when it is whole.

    Args:
        source: the damaged file, with the ``-wal`` or ``-journal`` that SQLite left beside it.
        target: the new file; there must be none of that name.

    Returns:
        How many rows were salvaged, and which were lost. A result whose task was lost is lost with it.

    Raises:
        NotADatabaseError: the beginning of the file is destroyed, or it never was a database.
        DatabaseCorruptError: the list of tables cannot be read.
        BackendError: the source does not exist, or the target does, or cannot be written.
    """
    damaged, made = check_file("source", source), check_file("target", target)
    require_paths(damaged, made)
    with beside(made, ".copy") as copy, beside(made, ".part") as part:
        copy_padded(damaged, copy)
        make_empty(options_for(part))
        with (
            naming(damaged),
            closing(open_damaged(copy, damaged)) as read,
            closing(connect(options_for(part))) as written,
        ):
            report = salvage(read, written)
            with naming(made):
                require_sound(written, f"the new database {made}")
        flush(part)
        part.replace(made)
    flush(made.parent)
    return report


def require_paths(source: Path, target: Path) -> None:
    """Refuse a source that is missing, and a target that is not."""
    if not source.is_file():
        raise BackendError(f"the database {source} does not exist")
    if target.exists():
        raise BackendError(f"{target} exists already; give the new database another name")
    if not target.parent.is_dir():
        raise DatabasePermissionError(f"the folder {target.parent} of the new database does not exist; make it first")


def options_for(path: Path) -> SQLiteOptions:
    """How the new database is written; if this process dies meanwhile it is worth nothing."""
    return SQLiteOptions(
        database=str(path),
        journal_mode="MEMORY",
        synchronous="OFF",
        connection_timeout=30.0,
        checkpoint_interval=None,
        cache_size=None,
        temp_store=None,
        read_only=False,
        log_queries=False,
        pool={},
        memory_name="",
    )


def make_empty(options: SQLiteOptions) -> None:
    """Make a database with empty tables."""
    database = Database(SQLiteDialect(options), OWN_MODELS, auto_upgrade=True, target=options.database)
    database.open()
    database.close()


def copy_padded(source: Path, copy: Path) -> None:
    """Copy a database with what is beside it; a truncated one is filled up with empty pages."""
    for suffix in ("", LOG, JOURNAL):
        part = source.with_name(source.name + suffix)
        if part.exists():
            shutil.copyfile(part, copy.with_name(copy.name + suffix))
    with copy.open("r+b") as file:
        header = file.read(HEADER)
        size = int.from_bytes(header[16:18], "big")
        # 1 stands for 65536. SQLite refuses to look at any page if the last ones are missing.
        whole = int.from_bytes(header[28:32], "big") * (65_536 if size == 1 else size)
        if header.startswith(b"SQLite format 3\0") and whole > copy.stat().st_size:
            file.truncate(whole)


def open_damaged(copy: Path, source: Path) -> sqlite3.Connection:
    """Open a copy of a damaged database, and require that its list of tables can be read."""
    driver = sqlite3.connect(copy, isolation_level=None)
    try:
        driver.execute("PRAGMA writable_schema=ON")  # lets SQLite pass over what it does not understand in the list
        driver.execute("PRAGMA cell_size_check=ON")
        known = {name for (name,) in driver.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if "tasks" not in known:
            raise DatabaseCorruptError(f"the database {source} lists no table of tasks, so nothing can be salvaged")
    except BaseException:
        driver.close()
        raise
    return driver


def salvage(read: sqlite3.Connection, written: sqlite3.Connection) -> RecoveryReport:
    """Write every row that can be read."""
    salvaged: dict[str, int] = {}
    lost: list[LostRows] = []
    written.execute("PRAGMA foreign_keys=ON")
    written.execute("BEGIN")
    for table, key in TABLES.items():
        count, missing = salvage_table(read, written, table, key)
        salvaged[table] = count
        lost += missing
    written.execute("COMMIT")
    return RecoveryReport(salvaged=salvaged, lost=tuple(lost))


def salvage_table(
    read: sqlite3.Connection, written: sqlite3.Connection, table: str, key: str
) -> tuple[int, list[LostRows]]:
    """Write the rows of one table; return how many, and what was lost."""
    columns = shared_columns(read, written, table)
    if not columns:
        return 0, []
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    count, gaps, refused = 0, [], []
    for found in read_rows(read, table, columns):
        if isinstance(found, Gap):
            gaps.append(found)
            continue
        rowid, values = found
        try:
            written.execute(statement, values)
            count += 1
        except sqlite3.Error as error:  # its task is lost, or it breaks a rule of its table
            refused.append(lost_row(table, rowid, values[columns.index(key)], str(error)))
    return count, [*refused, *lost_in(gaps, read, table, key)]


def shared_columns(read: sqlite3.Connection, written: sqlite3.Connection, table: str) -> list[str]:
    """The columns that both databases have, in the order of the new one."""
    try:
        there = {row[1] for row in read.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error:
        return []
    return [row[1] for row in written.execute(f"PRAGMA table_info({table})") if row[1] in there]


def lost_in(gaps: list[Gap], read: sqlite3.Connection, table: str, key: str) -> Iterator[LostRows]:
    """What was lost in the gaps: each row that the index names, and what lies between if the index is damaged too."""
    if not gaps:
        return
    index = indexed_keys(read, table, key)
    for gap in gaps:
        first = gap.first
        for rowid in sorted(index.keys):
            if first <= rowid and (gap.last is None or rowid <= gap.last):
                if first < rowid and not index.complete:
                    yield lost_range(table, first, rowid - 1, gap)
                yield lost_row(table, rowid, index.keys[rowid], gap.reason)
                first = rowid + 1
        if not index.complete and (gap.last is None or first <= gap.last):
            yield lost_range(table, first, gap.last, gap)


def lost_range(table: str, first: int, last: int | None, gap: Gap) -> LostRows:
    """Rows that were lost, as far as there were any under these numbers."""
    return LostRows(table=table, first_rowid=first, last_rowid=last, task_id=None, reason=gap.reason)


def lost_row(table: str, rowid: int, key: object, reason: str) -> LostRows:
    """One row that was lost."""
    task_id = key if isinstance(key, str) and table != "sitq_queues" else None
    return LostRows(table=table, first_rowid=rowid, last_rowid=rowid, task_id=task_id, reason=reason)
