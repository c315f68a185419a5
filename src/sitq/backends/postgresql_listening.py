"""LISTEN: a connection of its own, outside every pool, over which PostgreSQL tells what others have committed."""

from __future__ import annotations

import asyncio
import contextlib
import select
import selectors
import weakref
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from ..engines import Engines, close_detached

STILL_THERE = 120
"""After so many waits without news the server is asked whether it is still there."""


class News(NamedTuple):
    """What was heard: the process of the server that sent it, and the topic."""

    sender: int
    topic: str


ARRIVING: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)

Take = Callable[[float], Collection[News]]
"""Waits for news, at most so many seconds, and returns it."""


class OwnVoice:
    """The connections over which a backend writes: whoever waits in this process has been woken already."""

    def __init__(self) -> None:
        self._known: tuple[tuple[weakref.ref[Connection], int], ...] = ()

    def know(self, connection: Connection, server_process: int) -> None:
        """Let it be one of them, as long as it is open."""
        self._known = (*filter(is_open, self._known), (weakref.ref(connection), server_process))

    def sent(self, news: News) -> bool:
        """Whether the news came over one of them."""
        return any(known[1] == news.sender and is_open(known) for known in self._known)


def is_open(known: tuple[weakref.ref[Connection], int]) -> bool:
    """Whether the connection lives; else its number may be that of somebody else's by now."""
    connection = known[0]()
    return not (connection is None or connection.closed or connection.invalidated)


class PostgreSQLEar:
    """Hears one channel. Drivers differ in how they hand over what was heard: see ``HEARING``."""

    def __init__(self, engines: Engines, channel: str, own: OwnVoice) -> None:
        self._engines = engines
        self._own = own
        self._silent = 0
        self._connection, self._take = engines.call(listen, engines.called_engine, channel)

    def wait(self, timeout: float) -> Collection[str]:
        """Return the topics of which others have told, as soon as there are any."""
        heard = self._engines.call(self._take, timeout)
        self._silent = 0 if heard else self._silent + 1
        if self._silent >= STILL_THERE:
            self._silent = 0
            self._engines.call(self._connection.exec_driver_sql, "SELECT 1")
        return {news.topic for news in heard if not self._own.sent(news)}

    def rouse(self) -> None:
        """Let the wait take its time."""

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(Exception):  # it may be dead already
            self._engines.call(close_detached, self._connection)


def listen(engine: Engine, channel: str) -> tuple[Connection, Take]:
    """Open a connection outside the pool that listens, and return how to hear it."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.detach()
        take = HEARING[engine.dialect.driver, engine.dialect.is_async](connection.connection.dbapi_connection, channel)
        connection.exec_driver_sql(f"LISTEN {connection.dialect.identifier_preparer.quote_identifier(channel)}")
    except BaseException:
        close_detached(connection)
        raise
    return connection, take


def hear_psycopg(driver: Any, channel: str) -> Take:
    """Over psycopg 3. To look whether anything came is far cheaper than to let the driver wait."""
    arriving = ARRIVING()
    arriving.register(driver, selectors.EVENT_READ)

    def take(timeout: float) -> set[News]:
        if not arriving.select(timeout):
            return set()
        return {News(heard.pid, heard.payload) for heard in driver.notifies(timeout=timeout, stop_after=1)}

    return take


def hear_psycopg_async(adapted: Any, channel: str) -> Take:
    """Over psycopg 3's async connection."""

    async def gather(driver: Any, timeout: float) -> set[News]:
        return {News(heard.pid, heard.payload) async for heard in driver.notifies(timeout=timeout, stop_after=1)}

    return lambda timeout: adapted.run_async(lambda driver: gather(driver, timeout))


def hear_asyncpg(adapted: Any, channel: str) -> Take:
    """Over asyncpg, which calls back."""
    heard: asyncio.Queue[News] = asyncio.Queue()

    def hear(driver: Any, pid: int, channel: str, topic: str) -> None:
        heard.put_nowait(News(pid, topic))

    def end(driver: Any) -> None:
        heard.put_nowait(News(0, ""))

    async def gather(driver: Any, timeout: float) -> set[News]:
        taken: set[News] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                taken.add(await heard.get())
        while not heard.empty():
            taken.add(heard.get_nowait())
        if driver.is_closed():
            raise ConnectionResetError("the connection that listens was closed")
        return taken

    async def begin(driver: Any) -> None:
        driver.add_termination_listener(end)
        await driver.add_listener(channel, hear)

    adapted.run_async(begin)
    return lambda timeout: adapted.run_async(lambda driver: gather(driver, timeout))


def hear_psycopg2(driver: Any, channel: str) -> Take:
    """Over psycopg2, which is to be polled."""

    def take(timeout: float) -> set[News]:
        select.select([driver], [], [], timeout)
        driver.poll()
        taken = {News(heard.pid, heard.payload) for heard in driver.notifies}
        driver.notifies.clear()
        return taken

    return take


HEARING: dict[tuple[str, bool], Callable[[Any, str], Take]] = {
    ("psycopg", False): hear_psycopg,
    ("psycopg", True): hear_psycopg_async,
    ("asyncpg", True): hear_asyncpg,
    ("psycopg2", False): hear_psycopg2,
}
"""By the driver's name, and whether it is async. With other drivers, waiters poll."""
