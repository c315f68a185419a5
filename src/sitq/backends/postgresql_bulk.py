"""Rows in bulk: PostgreSQL's COPY, where the driver speaks it from sync code, and a document as a table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Connection, FromClause, Table, Text, bindparam, cast, column, func
from sqlalchemy.types import TypeEngine

from ..columns import in_utc
from ..query_log import log_query


def is_sync_psycopg(connection: Connection) -> bool:
    """Whether it is psycopg from sync code, which speaks COPY and begins transactions by a message of their own."""
    return connection.dialect.driver == "psycopg" and not connection.dialect.is_async


def copy_in(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    *,
    replacing: bool = False,
) -> bool:
    """See ``BulkInsert``: COPY, which knows no replacing, by sync psycopg; about twice as fast as INSERT."""
    if replacing or not is_sync_psycopg(connection):
        return False
    quoted = connection.dialect.identifier_preparer
    names = ", ".join(quoted.quote(name) for name in columns)
    statement = f"COPY {quoted.format_table(table)} ({names}) FROM STDIN"
    driver: Any = connection.connection.dbapi_connection
    began = time.perf_counter()
    with driver.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
        log_query(connection, statement, time.perf_counter() - began, cursor.rowcount)
    return True


def recordset(columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """Make a table out of one parameter, which holds rows in JSON. An array for each column costs a driver far more."""
    named = [column(name, plain(kind)) for name, kind in columns.items()]
    document = cast(bindparam("rows", type_=Text()), JSON)
    return func.json_to_recordset(document).table_valued(*named).render_derived(name="given", with_types=True)


def plain(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type without a collation, which the columns of a function's result cannot have."""
    return Text() if isinstance(kind, Text) else kind


def as_recordset(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What ``recordset`` reads."""
    return {"rows": json.dumps(rows, default=in_json, separators=(",", ":"))}


def in_json(value: object) -> str:
    """A value that JSON lacks, in the words of PostgreSQL."""
    if isinstance(value, datetime):
        return in_utc(value).isoformat()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(f"a {type(value).__name__} has no place in a row")
