"""The one connection that commits: kept open, and opened anew when it has been lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar, cast

from sqlalchemy import Connection

from .engines import close_detached
from .exceptions import DatabaseUnavailableError, SitqError
from .shortcut import Shortcut, Transacting
from .write_access import WriteAccess

T = TypeVar("T")

TRIES = 10
"""How often a transaction is tried that lost against another."""

LONGEST_PAUSE = 0.05
"""Before a transaction that lost against another is tried again, in seconds, times the number of the try."""


class WriteConnection:
    """Commits one transaction after another. Its user sees to it that only one thread does so at a time."""

    def __init__(self, access: WriteAccess) -> None:
        self._access = access
        self._connection: Connection | None = None
        self._shortcut: Shortcut | None = None
        self._is_committing = False

    def commit(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """Run ``work`` in a transaction, commit it, and return what it returned.

        It is run again where the transaction is known to have been rolled back and may do better: it lost
        against another one, or the kept connection turned out to be dead before the commit was sent.

        Work that executes one statement ``alone`` needs no transaction around it, which may save ways to a server.
        """
        tried = 0
        while True:
            tried += 1
            was_kept = self._connection is not None
            try:
                return self._access.call(self._transact_alone if alone else self._transact, work)
            except SitqError:
                raise
            except BaseException as error:
                self.close()
                if not self._may_try_again(error, tried, was_kept):
                    raise
                time.sleep(random.uniform(0, LONGEST_PAUSE) * (tried - 1))

    def _may_try_again(self, error: BaseException, tried: int, was_kept: bool) -> bool:
        if self._access.lost_race(error):
            return tried < TRIES
        return self.is_away(error) and was_kept and not self._is_committing

    def is_away(self, error: BaseException) -> bool:
        """Whether the error says that the database could not be reached, rather than that it refused."""
        return isinstance(self._access.translate(error), DatabaseUnavailableError)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        return self._run(self._ready(), work)

    def _transact_alone(self, work: Callable[[Connection], T]) -> T:
        connection = self._ready()
        if self._shortcut is not None and self._shortcut.is_open:
            self._is_committing = self._shortcut.commits_itself
            return self._run(self._shortcut, work)
        with self._access.alone(connection) as self._is_committing:
            return self._run(connection, work)

    def _ready(self) -> Connection:
        self._is_committing = False
        if self._connection is None:
            self._connection = self._access.connect_to_commit()
            self._shortcut = self._access.shortcut(self._connection)
        self._access.before_write(self._connection)
        return self._connection

    def _run(self, connection: Transacting, work: Callable[[Connection], T]) -> T:
        with connection.begin() as transaction:
            outcome = work(cast(Connection, connection))
            self._is_committing = True
            transaction.commit()
        return outcome

    def close(self) -> None:
        """Close the connection; the next commit opens another."""
        connection, self._connection, self._shortcut = self._connection, None, None
        if connection is not None:
            self._access.call(close_detached, connection)
