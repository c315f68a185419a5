"""Rows in bulk: SQLite takes a statement with many rows in half the time of a statement for each.

What all rows of a statement have in common is bound once. It is not bound to a number, as ``?1``: some releases of
Python's driver take that for a name, and warn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from sys import getsizeof
from typing import Any, TypeAlias

from sqlalchemy import Connection, Dialect, Table

from ..store.compiled import Process, processor_of

Row: TypeAlias = tuple[Any, ...]

SIZES = (100, 30, 10)
"""How many rows a statement has; just these numbers, since the driver keeps each that it has prepared."""

MOST_PARAMETERS = 999
"""Of one statement, in any build of SQLite."""

MOST_BYTES = 64_000
"""Of the parameters of one statement: the driver keeps them with it until it is executed again."""


def insert_together(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Row], *, replacing: bool = False
) -> bool:
    """See ``BulkInsert``; names that mean the tables of another schema are left to SQLAlchemy."""
    if connection.get_execution_options().get("schema_translate_map"):
        return False
    processes = [processor_of(table.c[column].type, connection.dialect) for column in columns]
    begin = beginning(connection.dialect, table, replacing)
    names = quoted_names(connection.dialect, tuple(columns))
    one_by_one = begin + from_values(names, (False,) * len(names), 1)
    for some in parted(list(rows), MOST_PARAMETERS // len(columns)):
        values = processed_columns(some, processes)
        if len(some) in SIZES:
            common, parameters = bound(values)
            if sum(map(getsizeof, parameters)) <= MOST_BYTES:
                connection.exec_driver_sql(begin + from_values(names, common, len(some)), parameters)
                continue
        connection.exec_driver_sql(one_by_one, list(zip(*values, strict=True)))
    return True


def parted(rows: list[Row], most: int) -> Iterator[list[Row]]:
    """Part rows into portions of ``SIZES``, none of more than ``most`` rows, and what is left."""
    start = 0
    for size in SIZES:
        while size <= most and len(rows) - start >= size:
            yield rows[start : start + size]
            start += size
    if start < len(rows):
        yield rows[start:]


def processed_columns(rows: Sequence[Row], processes: Sequence[Process | None]) -> list[Sequence[Any]]:
    """The values of each column, as the driver takes them."""
    columns = zip(*rows, strict=True)
    return [
        column if process is None else processed_by(process, column)
        for column, process in zip(columns, processes, strict=True)
    ]


def processed_by(process: Process, values: Sequence[Any]) -> list[Any]:
    """Process values; what stands there several times in a row is processed once, as the time of many tasks."""
    made: list[Any] = []
    latest = processed = object()
    for value in values:
        if value is not latest:
            latest, processed = value, process(value)
        made.append(processed)
    return made


def bound(columns: Sequence[Sequence[Any]]) -> tuple[tuple[bool, ...], Row]:
    """Say which columns are the same in all rows, and make the parameters: first of those, then row by row."""
    rows = len(columns[0])
    common = tuple(column.count(column[0]) == rows for column in columns)
    if all(common):  # one row again and again
        common = (False,) * len(columns)
    shared = [column[0] for column, is_common in zip(columns, common, strict=True) if is_common]
    varying = [column for column, is_common in zip(columns, common, strict=True) if not is_common]
    return common, (*shared, *chain.from_iterable(zip(*varying, strict=True)))


@lru_cache(maxsize=100)
def beginning(dialect: Dialect, table: Table, replacing: bool) -> str:
    """How the INSERT begins."""
    return f"INSERT {'OR REPLACE ' if replacing else ''}INTO {dialect.identifier_preparer.format_table(table)} "


@lru_cache(maxsize=100)
def quoted_names(dialect: Dialect, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The names of columns, as they stand in statements."""
    return tuple(dialect.identifier_preparer.quote(column) for column in columns)


@lru_cache(maxsize=100)
def from_values(columns: tuple[str, ...], common: tuple[bool, ...], count: int) -> str:
    """How it goes on, for so many rows; the values of the ``common`` columns are the same in all of them."""
    shared = [column for column, is_common in zip(columns, common, strict=True) if is_common]
    varying = [column for column, is_common in zip(columns, common, strict=True) if not is_common]
    every = ", ".join((*shared, *varying))
    if not shared:
        return f"({every}) {values(len(varying), count)}"
    common_values = f"shared ({', '.join(shared)}) AS ({values(len(shared), 1)})"
    own_values = f"given ({', '.join(varying)}) AS ({values(len(varying), count)})"
    return f"({every}) WITH {common_values}, {own_values} SELECT {every} FROM shared CROSS JOIN given"


def values(columns: int, rows: int) -> str:
    """Parameters for so many rows."""
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * rows)}"
