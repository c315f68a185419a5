"""Rows in bulk: PostgreSQL's COPY, where the driver speaks it from sync code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table


def copy_in(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> bool:
    """Insert rows by COPY, about twice as fast as by INSERT; say ``False`` if the driver is not sync psycopg."""
    if connection.dialect.driver != "psycopg" or connection.dialect.is_async:
        return False
    quoted = connection.dialect.identifier_preparer
    names = ", ".join(quoted.quote(name) for name in columns)
    driver: Any = connection.connection.dbapi_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {quoted.format_table(table)} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    return True
