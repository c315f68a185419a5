"""A transaction that spans many calls, where ``Database`` makes one of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from .database import Database
from .models import StoreModels
from .wakeups import Wakeups

P = ParamSpec("P")
T = TypeVar("T")


class Transaction:
    """Takes store functions to a database, all of them in one transaction on a connection of its own.

    It is committed where the block ends, unless by an error.

    Args:
        database: the database.
        connect: opens the connection: ``database.connect_to_snapshot``, whose moment is that of the first read,
            or ``database.connect_to_write``.
    """

    def __init__(self, database: Database, connect: Callable[[], Connection]) -> None:
        self._database = database
        self._connect = connect
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        with self._database.translated():
            self._database.open()
            self._connection = self._database.call(self._begin)
        return self

    def _begin(self) -> Connection:
        connection = self._connect()
        connection.begin()
        return connection

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with self._database.translated():
            self._database.call(self._end, commits=kind is None)

    def _end(self, *, commits: bool) -> None:
        assert self._connection is not None, "the block was entered"
        try:
            if commits:
                self._connection.commit()
        finally:
            self._connection.close()

    def read(self, function: Callable[Concatenate[Session, StoreModels, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a store function."""

        def run() -> T:
            with Session(self._connection, expire_on_commit=False) as session:
                return function(session, self._database.models, *args, **kwargs)

        with self._database.translated():
            return self._database.call(run)

    read_in_transaction = write = read

    def execute(self, statements: Iterable[str]) -> None:
        """Run statements without parameters."""

        def run() -> None:
            assert self._connection is not None, "the block was entered"
            for statement in statements:
                self._connection.execute(text(statement.replace(":", r"\:")))

        with self._database.translated():
            self._database.call(run)

    def now(self) -> datetime:
        """The time by the clock that leases follow."""
        return self._database.now()

    @property
    def wakeups(self) -> Wakeups:
        """What wakes workers and waiters in this process."""
        return self._database.wakeups
