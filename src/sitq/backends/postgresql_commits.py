"""A statement that commits itself, over psycopg: its driver begins transactions by a message of their own.

While nobody else listens to the engine it goes straight to the driver, since what SQLAlchemy does around it takes
longest where it matters most: in a process that has been idle until then.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from .postgresql_bulk import is_sync_psycopg
from .postgresql_listening import arriving_at
from .unheard import Unheard


@contextmanager
def committing_itself(connection: Connection) -> Iterator[bool]:
    """Let statements commit themselves meanwhile, and say whether they do; no transaction is open before and after."""
    driver: Any = connection.connection.dbapi_connection
    if not is_sync_psycopg(connection) or has_news(driver):
        yield False
        return
    driver.autocommit = True
    try:
        yield True
    finally:
        if not driver.broken:
            driver.autocommit = False


def has_news(driver: Any) -> bool:
    """Whether the server has said something unasked: it may have closed the connection, which BEGIN finds out."""
    with arriving_at(driver) as arriving:
        return bool(arriving.select(0))


class Answer:
    """What a statement gave, as SQLAlchemy's results tell it."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed or found."""
        count: int = self._cursor.rowcount
        return count

    def all(self) -> Sequence[tuple[Any, ...]]:
        """What the statement found."""
        rows: Sequence[tuple[Any, ...]] = self._cursor.fetchall()
        return rows


class PostgreSQLShortcut:
    """As much of a connection as ``store.compiled`` uses, for one statement that commits itself.

    An error has the driver's as its cause, without SQLAlchemy's around it.

    Args:
        connection: what it goes past; meanwhile no transaction is open on it.
        unheard: whether nobody would miss that it goes there.
        note_time: told when a statement began, by ``time.perf_counter``, as soon as it has ended.
    """

    commits_itself = True

    def __init__(self, connection: Connection, unheard: Unheard, note_time: Callable[[float], None]) -> None:
        self.dialect = connection.dialect
        self._connection = connection
        self._unheard = unheard
        self._note_time = note_time
        self._driver: Any = connection.connection.dbapi_connection
        self._arriving: selectors.BaseSelector = arriving_at(self._driver)

    @property
    def is_open(self) -> bool:
        """Whether nobody but sitq listens to the engine just now, and the server has said nothing unasked."""
        return bool(self._unheard) and not self._arriving.select(0)

    def get_execution_options(self) -> Mapping[str, Any]:
        """See ``Connection``."""
        return self._connection.get_execution_options()

    def begin(self) -> Self:
        """Let statements commit themselves until the context manager ends."""
        self._driver.autocommit = True
        return self

    def exec_driver_sql(self, statement: str, parameters: Mapping[str, Any]) -> Answer:
        """Execute the statement."""
        began = time.perf_counter()
        cursor = self._driver.cursor()
        cursor.execute(statement, parameters)
        self._note_time(began)
        return Answer(cursor)

    def commit(self) -> None:
        """Do nothing: it is committed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._driver.broken:
            self._connection.invalidate()
        else:
            self._driver.autocommit = False
