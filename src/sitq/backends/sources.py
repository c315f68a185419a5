"""Where the engines of a server's database come from: a URL, or an app that lends its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import quote

from sqlalchemy import URL, Engine, StaticPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..engines import shown_url
from ..exceptions import ConfigurationError, NotAvailableError
from ..query_log import log_queries as log_queries_of
from .engine_options import CheckedOptions, EngineOptions, check_options, take_schema

DatabaseAddress: TypeAlias = str | URL | Engine | AsyncEngine
"""A database as users may name it: a URL, or an engine of theirs."""

# A URL that names no driver takes these: for the sync door, and for the async one where it is installed.
PREFERRED = {
    "postgresql": ("psycopg", "psycopg"),
    "mariadb": ("pymysql", "asyncmy"),
    "mysql": ("pymysql", "asyncmy"),
}
EXTRAS = {"postgresql": "postgresql", "mariadb": "mariadb", "mysql": "mariadb"}

ConnectArgs: TypeAlias = Callable[[URL], dict[str, Any]]
"""Gives the keywords that the driver of a URL is to be called with."""


class EngineSource(ABC):
    """Gives engines; nothing is opened before they are used."""

    url: URL
    connection_timeout: float
    schema: str | None
    borrowed: bool
    has_sync_driver: bool
    has_async_driver: bool

    @property
    def kind(self) -> str:
        """The kind of database, by SQLAlchemy's name."""
        return self.url.get_backend_name()

    @property
    def driver(self) -> tuple[str, bool]:
        """The driver below the sync door: its name, and whether it is async."""
        return str(self.sync_door_url.get_dialect().driver), not self.has_sync_driver

    @property
    def sync_door_url(self) -> URL:
        """The URL of that driver."""
        return self.url

    @property
    def target(self) -> str:
        """The URL for messages."""
        shown = shown_url(self.url)
        return shown if self.schema is None else f"{shown}{'&' if '?' in shown else '?'}schema={quote(self.schema)}"

    @property
    def lent(self) -> Engine | None:
        """The engine that an app lends, the sync one below an async one; ``None`` where there is a URL."""
        return None

    @abstractmethod
    def create_engine(self, connect_args: ConnectArgs) -> Engine:
        """Make the sync engine, or give the borrowed one."""

    @abstractmethod
    def create_async_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        """Make an async engine for the running loop, or give the borrowed one."""

    @abstractmethod
    def create_private_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        """Make an async engine for a loop of sitq's own."""


class FromURL(EngineSource):
    """Engines made of a URL."""

    borrowed = False

    def __init__(self, url: URL, options: CheckedOptions) -> None:
        self.url = url
        self.connection_timeout = options.connection_timeout
        self.schema = options.schema
        self.options = options
        self._sync_url, self._async_url = urls_of_doors(url)
        self.has_sync_driver = self._sync_url is not None
        self.has_async_driver = self._async_url is not None

    def create_engine(self, connect_args: ConnectArgs) -> Engine:
        assert self._sync_url is not None, "whoever asks has looked at has_sync_driver"
        engine = create_engine(self._sync_url, connect_args=connect_args(self._sync_url), **self._keywords)
        self._log(engine)
        return engine

    def create_async_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        assert self._async_url is not None, "whoever asks has looked at has_async_driver"
        engine = create_async_engine(self._async_url, connect_args=connect_args(self._async_url), **self._keywords)
        self._log(engine.sync_engine)
        return engine

    def create_private_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        return self.create_async_engine(connect_args)

    @property
    def sync_door_url(self) -> URL:
        """The URL of the driver below the sync door."""
        url = self._sync_url or self._async_url
        assert url is not None, "one of them is there"
        return url

    @property
    def _keywords(self) -> dict[str, Any]:
        # Parameters are payloads, which errors must not show.
        return {"hide_parameters": True, "isolation_level": "READ COMMITTED", **self.options.pool}

    def _log(self, engine: Engine) -> None:
        if self.options.log_queries:
            log_queries_of(engine)


class FromEngine(EngineSource):
    """An app's sync engine."""

    borrowed = has_sync_driver = True
    has_async_driver = False

    def __init__(self, engine: Engine, options: CheckedOptions) -> None:
        self._engine = engine
        self.url = engine.url
        self.connection_timeout = options.connection_timeout
        self.schema = options.schema

    @property
    def lent(self) -> Engine:
        return self._engine

    def create_engine(self, connect_args: ConnectArgs) -> Engine:
        return self._engine

    def create_async_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        raise NotAvailableError("an Engine has no async driver; give an AsyncEngine")

    create_private_engine = create_async_engine


class FromAsyncEngine(EngineSource):
    """An app's async engine, which belongs to the app's event loop: sitq's own loop gets connections of its own."""

    borrowed = has_async_driver = True
    has_sync_driver = False

    def __init__(self, engine: AsyncEngine, options: CheckedOptions) -> None:
        self._engine = engine
        self.url = engine.url
        self.connection_timeout = options.connection_timeout
        self.schema = options.schema

    @property
    def lent(self) -> Engine:
        return self._engine.sync_engine

    def create_engine(self, connect_args: ConnectArgs) -> Engine:
        raise NotAvailableError("an AsyncEngine has no sync driver; give an Engine")

    def create_async_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        return self._engine

    def create_private_engine(self, connect_args: ConnectArgs) -> AsyncEngine:
        pool, dialect = self._engine.pool, self._engine.dialect
        if isinstance(pool, StaticPool):  # the one connection is the database, as of a test in memory
            return self._engine
        return AsyncEngine(Engine(pool.recreate(), dialect, self.url, hide_parameters=True))


def source_of(database: object, options: EngineOptions) -> EngineSource:
    """Return where the engines come from; raise ``ConfigurationError`` for what is no address, or a wrong option."""
    if not isinstance(database, Engine | AsyncEngine):
        database, options = take_schema(check_url(database), options)
    checked = check_options(**options)
    if isinstance(database, Engine | AsyncEngine):
        engines_own = [option for option in options if option not in ("connection_timeout", "schema")]
        if engines_own:
            raise ConfigurationError(f"an engine brings its own {', '.join(engines_own)}: give a URL, or leave it out")
        return FromEngine(database, checked) if isinstance(database, Engine) else FromAsyncEngine(database, checked)
    return FromURL(database, checked)


def check_url(value: object) -> URL:
    """Return a URL; no message shows it, since it may hold a password."""
    allowed = "give a URL such as postgresql://user@host/database, an Engine or an AsyncEngine"
    if not isinstance(value, str | URL):
        raise ConfigurationError(f"a {type(value).__name__} is no database: {allowed}")
    try:
        url = make_url(value)
    except ArgumentError:
        raise ConfigurationError(f"the URL of the database cannot be read: {allowed}") from None
    # As many hosting services write it.
    return url.set(drivername="postgresql") if url.drivername == "postgres" else url


def urls_of_doors(url: URL) -> tuple[URL | None, URL | None]:
    """The URLs for a sync and for an async driver, one of them ``None`` where the URL names the other kind."""
    if "+" not in url.drivername and url.drivername in PREFERRED:
        sync, twin = (url.set(drivername=f"{url.drivername}+{driver}") for driver in PREFERRED[url.drivername])
        return require_driver(sync), twin if has_driver(twin) else None
    dialect = require_driver(url).get_dialect()
    can_be_async = dialect.get_async_dialect_cls(url).is_async
    if can_be_async and dialect.driver == "psycopg":  # one driver for both doors, whatever it is called
        return url.set(drivername="postgresql+psycopg"), url.set(drivername="postgresql+psycopg")
    return (None, url) if can_be_async else (url, None)


def require_driver(url: URL) -> URL:
    """Return the URL if its driver is installed; raise ``NotAvailableError`` that says what to install."""
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise ConfigurationError(f"SQLAlchemy knows no driver for {url.drivername!r} URLs") from error
    except ImportError as error:
        extra = EXTRAS.get(url.get_backend_name())
        remedy = f"pip install '.[{extra}]' in a checkout" if extra else "install it"
        raise NotAvailableError(f"the driver for {url.drivername!r} URLs is not installed: {remedy}") from error
    return url


def has_driver(url: URL) -> bool:
    """Whether the URL's driver is installed."""
    try:
        require_driver(url)
    except NotAvailableError:
        return False
    return True
