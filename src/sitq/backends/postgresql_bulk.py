"""Rows in bulk: PostgreSQL's COPY, where the driver speaks it from sync code, and arrays as a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, FromClause, Table, Text, bindparam, column, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from ..query_log import log_query


def copy_in(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> bool:
    """Insert rows by COPY, about twice as fast as by INSERT; say ``False`` if the driver is not sync psycopg."""
    if connection.dialect.driver != "psycopg" or connection.dialect.is_async:
        return False
    quoted = connection.dialect.identifier_preparer
    names = ", ".join(quoted.quote(name) for name in columns)
    statement = f"COPY {quoted.format_table(table)} ({names}) FROM STDIN"
    driver: Any = connection.connection.dbapi_connection
    began = time.perf_counter()
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
    log_query(connection, statement, time.perf_counter() - began, len(rows))
    return True


def unnest(columns: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """Make a table out of arrays, one for each column."""
    # A column's collation is no part of an array's type.
    types = {name: Text() if isinstance(kind, Text) else kind for name, kind in columns.items()}
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]
    named = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*named).render_derived(name="given")
