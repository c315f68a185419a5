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


class Insertion:
    """What is known of the INSERTs into certain columns of a table: how they read, and what the driver takes.

    Args:
        dialect: the engine's.
        table: where the rows go.
        columns: the names of their columns, in the order of their values.
        replacing: whether rows with the same key give way.
    """

    def __init__(self, dialect: Dialect, table: Table, columns: tuple[str, ...], replacing: bool) -> None:
        quoted = dialect.identifier_preparer
        self._beginning = f"INSERT {'OR REPLACE ' if replacing else ''}INTO {quoted.format_table(table)} "
        self._names = tuple(quoted.quote(column) for column in columns)
        self.processes = [processor_of(table.c[column].type, dialect) for column in columns]
        self.of_one_row = self.statement((False,) * len(columns), 1)

    def statement(self, common: tuple[bool, ...], count: int) -> str:
        """The INSERT of so many rows; the values of the ``common`` columns are the same in all of them."""
        return self._beginning + from_values(self._names, common, count)


@lru_cache(maxsize=100)
def insertion(dialect: Dialect, table: Table, columns: tuple[str, ...], replacing: bool) -> Insertion:
    """These are the same for many rounds of a worker."""
    return Insertion(dialect, table, columns, replacing)


def insert_together(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Row], *, replacing: bool = False
) -> bool:
    """See ``BulkInsert``; names that mean the tables of another schema are left to SQLAlchemy."""
    if connection.get_execution_options().get("schema_translate_map"):
        return False
    inserting = insertion(connection.dialect, table, tuple(columns), replacing)
    for some in parted(list(rows), MOST_PARAMETERS // len(columns)):
        given = processed_columns(some, inserting.processes)
        if len(some) in SIZES:
            common, parameters = bound(given)
            if sum(map(getsizeof, parameters)) <= MOST_BYTES:
                connection.exec_driver_sql(inserting.statement(common, len(some)), parameters)
                continue
        connection.exec_driver_sql(inserting.of_one_row, list(zip(*given, strict=True)))
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
def from_values(columns: tuple[str, ...], common: tuple[bool, ...], count: int) -> str:
    """The columns and values of an INSERT; see ``Insertion.statement``."""
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
