"""Rows in bulk: SQLite takes a statement with many rows in half the time of a statement for each.

What all rows of a statement have in common is bound once. It is not bound to a number, as ``?1``: some releases of
Python's driver take that for a name, and warn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from sqlalchemy import Connection, Dialect, Table

from ..store.compiled import Process, processor_of

Row: TypeAlias = tuple[Any, ...]

FEW, MANY = 10, 100
"""Fewer rows go one by one, more in several statements."""

MOST_PARAMETERS = 999
"""Of one statement, in any build of SQLite."""


def insert_together(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Row], *, replacing: bool = False
) -> bool:
    """See ``BulkInsert``; names that mean the tables of another schema are left to SQLAlchemy."""
    if connection.get_execution_options().get("schema_translate_map"):
        return False
    processes = [processor_of(table.c[column].type, connection.dialect) for column in columns]
    begin = beginning(connection.dialect, table, replacing)
    names = quoted_names(connection.dialect, tuple(columns))
    for some in portions(list(rows), min(MANY, MOST_PARAMETERS // len(columns))):
        if len(some) >= FEW:
            common, parameters = bound(some, processes)
            connection.exec_driver_sql(begin + from_values(names, common, len(some)), parameters)
        else:
            one_by_one = from_values(names, (False,) * len(names), 1)
            connection.exec_driver_sql(begin + one_by_one, [bound([row], processes)[1] for row in some])
    return True


def portions(rows: list[Row], most: int) -> Iterator[list[Row]]:
    """So many rows at a time, and what is left."""
    return (rows[start : start + most] for start in range(0, len(rows), most))


def bound(rows: Sequence[Row], processes: Sequence[Process | None]) -> tuple[tuple[bool, ...], Row]:
    """Say which columns are the same in all rows, and make the parameters: first of those, then row by row."""
    columns = list(zip(*rows, strict=True))
    common = tuple(column.count(column[0]) == len(rows) for column in columns)
    if all(common):  # one row, or one again and again
        common = (False,) * len(columns)
    shared: list[Any] = []
    varying: list[Sequence[Any]] = []
    for column, is_common, process in zip(columns, common, processes, strict=True):
        values = column[:1] if is_common else column
        processed = values if process is None else processed_by(process, values)
        if is_common:
            shared.extend(processed)
        else:
            varying.append(processed)
    return common, (*shared, *chain.from_iterable(zip(*varying, strict=True)))


def processed_by(process: Process, values: Sequence[Any]) -> list[Any]:
    """Process values; what stands there several times in a row is processed once, as the time of many tasks."""
    made: list[Any] = []
    latest = processed = object()
    for value in values:
        if value is not latest:
            latest, processed = value, process(value)
        made.append(processed)
    return made


@lru_cache(maxsize=100)
def beginning(dialect: Dialect, table: Table, replacing: bool) -> str:
    """How the INSERT begins."""
    return f"INSERT {'OR REPLACE ' if replacing else ''}INTO {dialect.identifier_preparer.format_table(table)} "


@lru_cache(maxsize=100)
def quoted_names(dialect: Dialect, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The names of columns, as they stand in statements."""
    return tuple(dialect.identifier_preparer.quote(column) for column in columns)


@lru_cache(maxsize=1000)
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
