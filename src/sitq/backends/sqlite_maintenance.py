"""Looking after an SQLite database: its health, its soundness, its space and its statistics."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from ..exceptions import DatabaseCorruptError
from ..health import CheckReport
from .sqlite_connections import connect, insist
from .sqlite_files import MEGABYTE, sizes_of
from .sqlite_options import SQLiteOptions

CHECKED_WHOLE = 64.0
"""Megabytes up to which a health check looks at every page."""

ROWS_LOOKED_AT = 1_000
"""How many rows of each index ``optimize`` looks at, so that it takes no longer on a large table."""

MOST_PROBLEMS = 100


def measure(options: SQLiteOptions) -> dict[str, Any]:
    """The sizes of the files, and the space that is left."""
    if options.in_memory:
        return {}
    sizes = sizes_of(options.path)
    return {"database_size_mb": sizes.total, "wal_size_mb": sizes.log, "free_space_mb": sizes.free}


def examine(driver: sqlite3.Connection, options: SQLiteOptions) -> dict[str, Any]:
    """Look whether a database is sound, as far as that is quick, and whether it can be written."""
    size = pragma(driver, "page_count") * int(pragma(driver, "page_size")) / MEGABYTE  # a text, says SQLCipher
    if size <= CHECKED_WHOLE:
        found = pragma(driver, "quick_check(1)")
        if found != "ok":
            raise DatabaseCorruptError(f"the database {options.database} is damaged: {found}")
    if not options.read_only:
        insist(driver, "BEGIN IMMEDIATE", options)
        driver.execute("ROLLBACK")
    findings = {"journal_mode": pragma(driver, "journal_mode")}
    return findings | {"database_size_mb": size} if options.in_memory else findings


def vacuum(options: SQLiteOptions) -> None:
    """Write the database anew without its empty pages."""
    with closing(connect(options)) as driver:
        insist(driver, "VACUUM", options)
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def optimize(options: SQLiteOptions) -> None:
    """Count how rows are spread over the indexes."""
    with closing(connect(options)) as driver:
        driver.execute(f"PRAGMA analysis_limit={ROWS_LOOKED_AT}")
        insist(driver, "ANALYZE", options)


def check(options: SQLiteOptions) -> CheckReport:
    """Look at every page, index and reference."""
    with closing(connect(options)) as driver:
        found = [row[0] for row in driver.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})")]
        problems = [] if found == ["ok"] else found
        for table, rowid, parent, _ in driver.execute("PRAGMA foreign_key_check").fetchmany(MOST_PROBLEMS):
            problems.append(f"row {rowid} of {table} refers to a row of {parent} that is missing")
    return CheckReport(tuple(problems[:MOST_PROBLEMS]))


def pragma(driver: sqlite3.Connection, name: str) -> Any:
    """What a pragma says."""
    return driver.execute(f"PRAGMA {name}").fetchone()[0]
