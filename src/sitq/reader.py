"""Reading: on a connection of a pool, once more where the pool gave a dead one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from .dialect import Dialect
from .engines import Engines, again_if_lost, require_lost
from .unbroken import unbroken

T = TypeVar("T")


class Reader:
    """What changes nothing goes to one database through it.

    Args:
        dialect: what this kind of database does differently.
        engines: the database's.
    """

    def __init__(self, dialect: Dialect, engines: Engines) -> None:
        self._dialect = dialect
        self._engines = engines

    def read(self, look: Callable[[Connection], T], *, at_once: bool) -> T:
        """Run a function on a connection; if ``at_once``, each of its statements may be a transaction of its own."""

        def connect() -> T:
            with self._dialect.engine_to_read(self._engines.called_engine).connect() as connection:
                return self._look(connection, look, at_once=at_once)

        return self._engines.call(again_if_lost, connect)

    async def aread(self, look: Callable[[Connection], T]) -> T:
        """``read``, at once, over the async engine of the running event loop."""

        async def connect() -> T:
            engine = self._dialect.engine_to_read(self._engines.async_engine.sync_engine)
            async with AsyncEngine(engine).connect() as connection:
                return await connection.run_sync(lambda sync: self._look(sync, look, at_once=True))

        try:
            return await unbroken(connect())
        except DBAPIError as error:
            require_lost(error)
            return await unbroken(connect())

    def _look(self, connection: Connection, look: Callable[[Connection], T], *, at_once: bool) -> T:
        if at_once:
            self._dialect.read_at_once(connection)
        try:
            return look(connection)
        finally:
            self._dialect.end_reading(connection)
