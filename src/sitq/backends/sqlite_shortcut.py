"""A write that is one statement, straight to SQLite's driver.

What SQLAlchemy does around a statement and a transaction takes as long as SQLite does for one new task. It is there
for those who listen to the engine or read its log, so it is left out only while nobody does but sitq itself.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from ..joining import hide_parameters
from .sqlite_connections import driver_of
from .sqlite_joining import explain_lock

OWN = 1
"""How many listen to an engine's beginning transactions, and to its statements, where only sitq does."""

OWN_EXPLANATIONS = (explain_lock, hide_parameters)
"""What listens to errors once somebody has enqueued in a transaction of his own over the engine."""


class SQLiteShortcut:
    """As much of a connection as ``execute_rows`` uses, for one transaction of one statement.

    An error has the driver's as its cause, without SQLAlchemy's around it.

    Args:
        connection: what it goes past; meanwhile no transaction is open on it.
        begin: takes the write lock.
        note_time: told when a statement began, by ``time.perf_counter``, as soon as it has ended.
    """

    def __init__(
        self,
        connection: Connection,
        begin: Callable[[sqlite3.Connection], None],
        note_time: Callable[[float], None],
    ) -> None:
        self.dialect = connection.dialect
        self._connection = connection
        self._driver = driver_of(connection)
        self._begin = begin
        self._note_time = note_time

    @property
    def is_open(self) -> bool:
        """Whether nobody but sitq listens to the engine just now."""
        return is_unheard(self._connection.engine.dispatch, self.dialect.dispatch)

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


def is_watched(connection: Connection) -> bool:
    """Whether SQLAlchemy logs what this connection does, or somebody listens to it rather than to its engine."""
    logs = connection.engine.logger.isEnabledFor(logging.INFO)  # which SQLAlchemy, too, asks once for a connection
    return logs or not is_unheard(connection.dispatch, connection.dialect.dispatch)


def is_unheard(heard: Any, below: Any) -> bool:
    """Whether only sitq hears of transactions, statements and errors, by the events of an engine and of its dialect."""
    return (
        len(heard.begin) == OWN
        and len(heard.before_cursor_execute) == OWN
        and len(heard.after_cursor_execute) == OWN
        and not (heard.commit or heard.rollback or below.do_execute)
        and (not below.handle_error or all(listener in OWN_EXPLANATIONS for listener in below.handle_error))
    )
