"""Restoring a backup: checked, upgraded and revived on a copy, then put in place in one step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .. import schema, schema_check, store
from ..database import Database
from ..dialect import Dialect, Progress
from ..exceptions import BackendError, SchemaError, SchemaTooNewError
from ..models import Models
from .sqlite_connections import connect
from .sqlite_copies import beside, copy_snapshot, flush, naming, overwrite, require_sound
from .sqlite_files import JOURNAL, LOG, SHARED_MEMORY
from .sqlite_options import SQLiteOptions

MakeDialect = Callable[[SQLiteOptions], Dialect]


@contextmanager
def ready_copy(
    options: SQLiteOptions, source: Path, models: Models, paused: bool, make_dialect: MakeDialect
) -> Iterator[SQLiteOptions]:
    """Give a copy of a backup that may come in the place of a database; the backup is not changed."""
    if not source.is_file():
        raise BackendError(f"the backup {source} does not exist")
    # In the folder of the database, since a step of the restore may be to move it there.
    folder = Path(tempfile.gettempdir()) if options.in_memory else options.path.parent
    with beside(folder / source.name, ".restoring") as path:
        # Nobody else sees the copy, and if this process dies it is worth nothing.
        copy = options.at(path, journal_mode="MEMORY", synchronous="OFF", read_only=False, log_queries=False)
        with naming(source):
            make_copy(options, source, copy)
        make_ready(Database(make_dialect(copy), models, auto_upgrade=True, target=str(source)), paused)
        yield copy


def make_copy(options: SQLiteOptions, source: Path, copy: SQLiteOptions) -> None:
    """Copy the file of a backup, and require that the copy is sound and sitq's."""
    with closing(connect(options.at(source, read_only=True))) as read, closing(connect(copy, create=True)) as written:
        copy_snapshot(read, written, None)
        written.execute("PRAGMA journal_mode=MEMORY")
        require_sound(written, f"the backup {source}")


def make_ready(database: Database, paused: bool) -> None:
    """Upgrade a copy, and let no task in it run in anybody's hands."""
    require_ours(database)
    try:
        database.write(store.revive)
        if paused:
            database.write(store.pause_every_queue, datetime.now(UTC))
    finally:
        database.close()


def require_ours(database: Database) -> None:
    """Raise ``SchemaError`` for a database that has no tables of sitq, or newer ones."""
    engine = database.dialect.create_engine()
    try:
        with database.translated(), engine.connect() as connection:
            if database.models.app_owned:
                schema_check.check_owned(connection, database.models, target=database.target)
                return
            state = schema.read_state(connection)
    finally:
        engine.dispose()
    if state.is_newer:
        raise SchemaTooNewError(
            f"the backup {database.target} has the schema of revision {state.revision}, and this version of sitq "
            f"knows the way up to {schema.HEAD} only; restore it with the version that wrote it"
        )
    if state.is_empty:
        raise SchemaError(f"the backup {database.target} has no tables of sitq")


def put_in_place(copy: SQLiteOptions, options: SQLiteOptions, progress: Progress | None) -> None:
    """Replace the content of a sound database, under open connections."""
    with closing(connect(copy)) as read:
        if not options.in_memory:
            match_page_size(read, options)
        overwrite(read, options, progress)


def match_page_size(read: object, options: SQLiteOptions) -> None:
    """Give the copy the pages of the database, which cannot change theirs while it is open."""
    with closing(connect(options)) as present:
        (size,) = present.execute("PRAGMA page_size").fetchone()
    execute = read.execute  # type: ignore[attr-defined]  # a connection of any driver of SQLite
    if execute("PRAGMA page_size").fetchone()[0] != size:
        execute(f"PRAGMA page_size={size}")
        execute("VACUUM")


def replace_damaged(copy: SQLiteOptions, options: SQLiteOptions) -> None:
    """Put a copy where a damaged database is, which keeps its content under another name."""
    flush(copy.path)
    aside = options.path.with_name(f"{options.path.name}.damaged-{datetime.now(UTC):%Y%m%d%H%M%S}")
    for suffix in (LOG, JOURNAL, SHARED_MEMORY):
        left = options.path.with_name(options.path.name + suffix)
        if left.exists():
            left.replace(aside.with_name(aside.name + suffix))
    options.path.replace(aside)
    copy.path.replace(options.path)
    flush(options.path.parent)
