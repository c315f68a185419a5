"""How the writer's connection reaches a database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection

from .clock import Clock
from .dialect import Dialect
from .engines import Engines, again_if_lost
from .exceptions import BackendError
from .shortcut import Shortcut

P = ParamSpec("P")
T = TypeVar("T")


class WriteAccess:
    """Writes over the engine of the sync door.

    Args:
        dialect: what this kind of database does differently.
        engines: the database's.
        clock: the one that leases follow, which is read anew now and then.
        translate: turns a driver's error into one of sitq's, or returns ``None`` if it is not the driver's.
    """

    def __init__(
        self,
        dialect: Dialect,
        engines: Engines,
        clock: Clock,
        translate: Callable[[BaseException], BackendError | None],
    ) -> None:
        self.translate = translate
        self._dialect = dialect
        self._engines = engines
        self._clock = clock

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function where the connection can be used."""
        return self._engines.call(function, *args, **kwargs)

    def connect_to_commit(self) -> Connection:
        """Open a connection to write, which its server ends if it stands still in a transaction."""

        def connect() -> Connection:
            connection = self._dialect.connect_to_write(self._engines.called_engine)
            self._dialect.limit_pauses(connection)
            return connection

        return again_if_lost(connect)

    def alone(self, connection: Connection) -> AbstractContextManager[bool]:
        """Let a statement be a transaction of its own meanwhile, and say whether it is."""
        return self._dialect.alone(connection)

    def shortcut(self, connection: Connection) -> Shortcut | None:
        """Make a way past a connection for statements that are alone, if there is one."""
        return self._dialect.shortcut(connection, self._engines.query_times.note)

    def before_write(self, connection: Connection) -> None:
        """Read the server's clock, if it is time to."""
        if self._clock.is_stale:
            self._dialect.set_clock(self._clock, connection)
            connection.rollback()

    def lost_race(self, error: BaseException) -> bool:
        """Whether this error rolled back a transaction that may do better when it is run again at once."""
        return self._dialect.lost_race(error)
