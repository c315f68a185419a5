"""Tasks in an app's own SQLite transactions: which file those are in, and why a lock was refused."""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import ExceptionContext

from ..engines import shown_url
from ..exceptions import DatabaseLockedError
from ..task_tables import writes_tasks
from .sqlite_errors import primary_code

REMEDY = (
    "a transaction that has read cannot write once another has written: begin it with a write, or let all of the "
    "engine's transactions begin with the write lock, sitq.sqlite.configure(engine)"
)


def file_of(url: URL) -> str | None:
    """The file that a URL names, by its real path; ``None`` for a database in memory, and for another kind."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    if not name.startswith("file:"):
        return real_path(name)
    parts = urlsplit(name)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()} | dict(url.query)
    in_memory = query.get("mode") == "memory" or query.get("vfs") == "memdb" or parts.path in ("", ":memory:")
    return None if in_memory else real_path(unquote(parts.path))


def real_path(path: str) -> str:
    """One text for a file, however it is written."""
    return os.path.normcase(os.path.realpath(path))


def explain_locks(engine: Engine) -> None:
    """Say what to do where a transaction of this engine cannot get the write lock (any more)."""
    event.listen(engine, "handle_error", explain_lock)


def explain_lock(context: ExceptionContext) -> None:
    """Make it an error of sitq's where it hit a new task; an app's own statement keeps its error, with a note."""
    error = context.original_exception
    if primary_code(error) != sqlite3.SQLITE_BUSY or context.engine is None:
        return
    is_stale = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY_SNAPSHOT
    if writes_tasks(context):
        target = shown_url(context.engine.url)
        why = "was written since this transaction began to read" if is_stale else "is locked by another connection"
        raise DatabaseLockedError(f"the database {target} {why}, so the task was not added: {REMEDY}")
    if is_stale:
        (context.sqlalchemy_exception or error).add_note(f"sitq: {REMEDY}")
