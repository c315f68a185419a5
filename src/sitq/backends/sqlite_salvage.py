"""Reading a damaged table: rows in the order of their numbers, and the gaps between those that can be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

FIRST_ROWID, LAST_ROWID = 1, 2**63 - 1

CLOSE_LOOK = 10_000
"""So many numbers after an unreadable row are tried one by one; behind that, rows between two gaps may be missed."""


_UNREADABLE: Final = -1


class Gap(NamedTuple):
    """Numbers of rows among which nothing can be read; ``last`` is ``None`` if nothing after them can be."""

    first: int
    last: int | None
    reason: str


class Row(NamedTuple):
    """A row that could be read."""

    rowid: int
    values: tuple[Any, ...]


def read_rows(driver: sqlite3.Connection, table: str, columns: Sequence[str]) -> Iterator[Row | Gap]:
    """Give each row that can be read, and each gap, in the order of their numbers."""
    reader = _Reader(driver, table, columns)
    start = FIRST_ROWID
    while True:
        try:
            for row in reader.rows_from(start):
                yield row
                start = row.rowid + 1
            return
        except sqlite3.Error as error:
            reason = str(error)
        # The row at the start may be readable still: the driver looks one row ahead, and drops it on an error.
        after = reader.first_readable(start)
        if after is None:
            yield Gap(start, None, reason)
            return
        if after > start:
            yield Gap(start, after - 1, reason)
        yield reader.row_at(after)
        start = after + 1


class IndexedKeys(NamedTuple):
    """What the index of a table's key says.

    Attributes:
        keys: the key of each row, by the row's number.
        complete: whether the whole index could be read.
    """

    keys: dict[int, str]
    complete: bool


def indexed_keys(driver: sqlite3.Connection, table: str, key: str) -> IndexedKeys:
    """Read the index of a table's key, from both ends as far as it can be read."""
    found: dict[int, str] = {}
    for order in ("", " DESC"):
        index = f"sqlite_autoindex_{table}_1"
        query = f"SELECT rowid, {key} FROM {table} INDEXED BY {index} WHERE {key} > '' ORDER BY {key}{order}"
        try:
            found.update(driver.execute(query))
        except sqlite3.Error:
            continue
        return IndexedKeys(found, complete=True)
    return IndexedKeys(found, complete=False)


class _Reader:
    def __init__(self, driver: sqlite3.Connection, table: str, columns: Sequence[str]) -> None:
        self._driver = driver
        self._query = f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"

    def rows_from(self, start: int) -> Iterator[Row]:
        for number, *values in self._driver.execute(self._query, (start,)):
            if number < start:
                raise sqlite3.DatabaseError("rows are out of order")
            yield Row(number, tuple(values))
            start = number + 1

    def row_at(self, rowid: int) -> Row:
        """A row that was found to be readable."""
        number, *values = self._driver.execute(f"{self._query} LIMIT 1", (rowid,)).fetchone()
        return Row(number, tuple(values))

    def first_readable(self, start: int) -> int | None:
        """The first number from here on under which a row can be read; ``None`` if there is none."""
        for probe in range(start, min(start + CLOSE_LOOK, LAST_ROWID)):
            found = self._probe(probe)
            if found != _UNREADABLE:
                return found
        return self._far_readable(start + CLOSE_LOOK)

    def _far_readable(self, bad: int) -> int | None:
        """As ``first_readable``: steps grow until one lands behind the damage, then the stretch between is halved."""
        step = 1
        while bad < LAST_ROWID:
            probe = min(bad + step, LAST_ROWID)
            found = self._probe(probe)
            if found != _UNREADABLE:
                return None if found is None else self._between(bad, found)
            bad, step = probe, step * 2
        return None

    def _between(self, bad: int, good: int) -> int:
        while good - bad > 1:
            middle = (bad + good) // 2
            found = self._probe(middle)
            if found == _UNREADABLE or found is None:
                bad = middle
            else:
                good = min(good, found)
                bad = bad if found == middle else middle
        return good

    def _probe(self, start: int) -> int | None:
        """The number of the first row from here on, ``None`` at the end of the table, or ``_UNREADABLE``."""
        try:
            row = self._driver.execute(f"{self._query} LIMIT 1", (start,)).fetchone()
        except sqlite3.Error:
            return _UNREADABLE
        if row is None:
            return None
        return int(row[0]) if row[0] >= start else _UNREADABLE
