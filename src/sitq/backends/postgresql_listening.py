"""LISTEN: a connection of its own, outside every pool, over which PostgreSQL tells what others have committed."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import time
import weakref
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from ..engines import Engines, close_detached

STILL_THERE = 30.0
"""Seconds without news after which the server is asked whether it is still there."""

PATIENCE_OF_LOOPS = 0.25
"""Seconds; a wait over an async driver does not end before, so it is no longer."""


class News(NamedTuple):
    """What was heard: the process of the server that sent it, and the topic."""

    sender: int
    topic: str


ARRIVING: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)

Take = Callable[[float], Collection[News]]
"""Waits for news, at most so many seconds, and returns it."""


class Bell:
    """Ends a wait from another thread, once and for all."""

    def __init__(self) -> None:
        self._heard, self._rung = socket.socketpair()

    def fileno(self) -> int:
        """What can be read as soon as the bell was rung."""
        return self._heard.fileno()

    def ring(self) -> None:
        """Ring it; raises nothing, and does nothing once the bell is gone."""
        with contextlib.suppress(OSError):
            self._rung.send(b".")

    def close(self) -> None:
        """Take it down."""
        self._heard.close()
        self._rung.close()


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
        self._heard_at = time.monotonic()
        self._bell = Bell()
        try:
            self._connection, self._take = engines.call(listen, engines.called_engine, channel, self._bell)
        except BaseException:
            self._bell.close()
            raise

    def wait(self, timeout: float) -> Collection[str]:
        """Return the topics of which others have told, as soon as there are any."""
        if time.monotonic() - self._heard_at > STILL_THERE:
            self._engines.call(self._connection.exec_driver_sql, "SELECT 1")
            self._heard_at = time.monotonic()
        heard = self._engines.call(self._take, timeout)
        if heard:
            self._heard_at = time.monotonic()
        return {news.topic for news in heard if not self._own.sent(news)}

    def rouse(self) -> None:
        """Let the wait end, as far as the driver lets it."""
        self._bell.ring()

    def close(self) -> None:
        """Close the connection."""
        self._bell.close()
        with contextlib.suppress(Exception):  # it may be dead already
            self._engines.call(close_detached, self._connection)


def listen(engine: Engine, channel: str, bell: Bell) -> tuple[Connection, Take]:
    """Open a connection outside the pool that listens, and return how to hear it."""
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.detach()
        hear = HEARING[engine.dialect.driver, engine.dialect.is_async]
        take = hear(connection.connection.dbapi_connection, channel, bell)
        connection.exec_driver_sql(f"LISTEN {connection.dialect.identifier_preparer.quote_identifier(channel)}")
    except BaseException:
        close_detached(connection)
        raise
    return connection, take


def hear_psycopg(driver: Any, channel: str, bell: Bell) -> Take:
    """Over psycopg 3. What it does to wait for news by itself takes longer than the news."""
    heard: set[News] = set()
    driver.add_notify_handler(lambda notify: heard.add(News(notify.pid, notify.payload)))  # beside an answer
    arriving = arriving_at(driver, bell)
    encoding = driver.info.encoding

    def take(timeout: float) -> set[News]:
        if not heard and arriving.select(timeout):
            driver.pgconn.consume_input()
            while (notify := driver.pgconn.notifies()) is not None:
                heard.add(News(notify.be_pid, notify.extra.decode(encoding)))
        taken = heard.copy()
        heard.clear()
        return taken

    return take


def arriving_at(*sources: Any) -> selectors.BaseSelector:
    """What waits until something can be read from one of them."""
    arriving = ARRIVING()
    for source in sources:
        arriving.register(source, selectors.EVENT_READ)
    return arriving


def hear_psycopg_async(adapted: Any, channel: str, bell: Bell) -> Take:
    """Over psycopg 3's async connection."""

    async def gather(driver: Any, timeout: float) -> set[News]:
        return {News(heard.pid, heard.payload) async for heard in driver.notifies(timeout=timeout, stop_after=1)}

    return lambda timeout: adapted.run_async(lambda driver: gather(driver, min(timeout, PATIENCE_OF_LOOPS)))


def hear_asyncpg(adapted: Any, channel: str, bell: Bell) -> Take:
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
    return lambda timeout: adapted.run_async(lambda driver: gather(driver, min(timeout, PATIENCE_OF_LOOPS)))


def hear_psycopg2(driver: Any, channel: str, bell: Bell) -> Take:
    """Over psycopg2, which is to be polled."""
    arriving = arriving_at(driver, bell)

    def take(timeout: float) -> set[News]:
        if not driver.notifies:
            arriving.select(timeout)
        driver.poll()
        taken = {News(heard.pid, heard.payload) for heard in driver.notifies}
        driver.notifies.clear()
        return taken

    return take


HEARING: dict[tuple[str, bool], Callable[[Any, str, Bell], Take]] = {
    ("psycopg", False): hear_psycopg,
    ("psycopg", True): hear_psycopg_async,
    ("asyncpg", True): hear_asyncpg,
    ("psycopg2", False): hear_psycopg2,
}
"""By the driver's name, and whether it is async. With other drivers, waiters poll."""
