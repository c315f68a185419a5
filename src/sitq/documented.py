"""The documented tables: how SQLite makes them, and how to know them when somebody made them by hand."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Inspector, inspect
from sqlalchemy.types import TypeEngine

from .exceptions import ForeignTableError

SQLITE_TASKS = """\
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    function BLOB NOT NULL,
    args BLOB,
    kwargs BLOB,
    priority INTEGER DEFAULT 0,
    status TEXT DEFAULT 'queued',
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    retry_count INTEGER DEFAULT 0,
    max_retries INTEGER DEFAULT 0,
    error_message TEXT
)"""

SQLITE_RESULTS = """\
CREATE TABLE results (
    task_id TEXT PRIMARY KEY,
    value BLOB,
    is_error BOOLEAN DEFAULT FALSE,
    error_message TEXT,
    completed_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (task_id) REFERENCES tasks(id)
)"""

DOCUMENTED: dict[str, dict[str, type]] = {
    "tasks": {
        "id": str,
        "function": bytes,
        "args": bytes,
        "kwargs": bytes,
        "priority": int,
        "status": str,
        "created_at": datetime,
        "started_at": datetime,
        "completed_at": datetime,
        "retry_count": int,
        "max_retries": int,
        "error_message": str,
    },
    "results": {"task_id": str, "value": bytes, "is_error": int, "error_message": str, "completed_at": datetime},
}


def documented_tables(connection: Connection) -> frozenset[str]:
    """Return which of ``tasks`` and ``results`` stand in a database that sitq has not been in.

    Raises ``ForeignTableError`` if a table or view of such a name is not what the documents say.
    """
    inspector = inspect(connection)
    present = {name.casefold() for name in inspector.get_table_names()} & {*DOCUMENTED, "sitq_queues"}
    views = {name.casefold() for name in inspector.get_view_names()} & {*DOCUMENTED, "sitq_queues"}
    for name in views:
        raise _foreign(name, "it is a view")
    if "sitq_queues" in present:
        raise _foreign("sitq_queues", "no version of sitq is recorded here, and it is not one of the documented tables")
    for name in present:
        _require_documented(inspector, name)
    return frozenset(present)


def kind(type_: TypeEngine[Any]) -> type | None:
    """The Python type of a column's values, as far as databases can tell them apart; ``None`` if unknown."""
    try:
        python_type: type = type_.python_type
    except NotImplementedError:
        return None
    # MariaDB has no type of its own for bool, and reflects DOUBLE as a decimal.
    same: dict[type, type] = {bool: int, Decimal: float}
    return same.get(python_type, python_type)


def may_be_left_out(column: Any) -> bool:
    """Whether a row may be inserted without this reflected column."""
    return bool(column["nullable"] or column["default"] is not None or "computed" in column or "identity" in column)


def _require_documented(inspector: Inspector, table: str) -> None:
    wanted = DOCUMENTED[table]
    columns = {column["name"]: column for column in inspector.get_columns(table)}
    for name, python_type in wanted.items():
        if name not in columns:
            raise _foreign(table, f"it has no column {name!r}")
        if kind(columns[name]["type"]) is not python_type:
            raise _foreign(table, f"its column {name!r} has the type {columns[name]['type']}")
    for name in columns.keys() - wanted.keys():
        if not may_be_left_out(columns[name]):
            raise _foreign(table, f"its column {name!r} is neither nullable nor has a default")
    key = next(iter(wanted))
    if inspector.get_pk_constraint(table)["constrained_columns"] != [key]:
        raise _foreign(table, f"its primary key is not {key!r}")


def _foreign(table: str, reason: str) -> ForeignTableError:
    return ForeignTableError(
        f"the table {table!r} in this database does not belong to sitq: {reason}. Nothing was altered. "
        f"Give sitq a database of its own, or tables of other names: models=sitq.declare_models(Base)."
    )
