"""A write that is one statement, straight to SQLite's driver.

What SQLAlchemy does around a statement and a transaction takes as long as SQLite does for one new task. It is there
for those who listen to the engine or read its log, so it is left out only while nobody does but sitq itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from .sqlite_connections import driver_of
from .unheard import Unheard


class SQLiteShortcut:
    """As much of a connection as ``store.compiled.execute_rows`` uses, for one transaction of one statement.

    An error has the driver's as its cause, without SQLAlchemy's around it.

    Args:
        connection: what it goes past; meanwhile no transaction is open on it.
        unheard: whether nobody would miss that it goes there.
        begin: takes the write lock.
        note_time: told when a statement began, by ``time.perf_counter``, as soon as it has ended.
    """

    commits_itself = False

    def __init__(
        self,
        connection: Connection,
        unheard: Unheard,
        begin: Callable[[sqlite3.Connection], None],
        note_time: Callable[[float], None],
    ) -> None:
        self.dialect = connection.dialect
        self._connection = connection
        self._unheard = unheard
        self._driver = driver_of(connection)
        self._begin = begin
        self._note_time = note_time

    @property
    def is_open(self) -> bool:
        """Whether nobody but sitq listens to the engine just now."""
        return bool(self._unheard)

    def get_execution_options(self) -> Mapping[str, Any]:
        """See ``Connection``."""
        return self._connection.get_execution_options()

    def begin(self) -> Self:
        """Begin a transaction; use as a context manager, which rolls back what has not been committed."""
        self._begin(self._driver)
        return self

    def exec_driver_sql(self, statement: str, parameters: tuple[Any, ...]) -> sqlite3.Cursor:
        """Execute the statement."""
        began = time.perf_counter()
        cursor = self._driver.execute(statement, parameters)
        self._note_time(began)
        return cursor

    def commit(self) -> None:
        """Commit the transaction."""
        self._driver.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._driver.rollback()
