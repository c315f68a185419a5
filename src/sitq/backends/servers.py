"""What PostgreSQL and MariaDB have in common: a server, reached by engines that are made or borrowed."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

from sqlalchemy import URL, Connection, Engine, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..database import Database
from ..dialect import Dialect, Progress
from ..exceptions import BackendError, DatabaseUnavailableError, SitqError
from ..models import Models
from ..presence import Presence, file_presence, shared_folder
from ..transaction import Transaction
from . import server_backups
from .addresses import leads_to, server_address
from .grants import AccessLists
from .guarding import guarded
from .sources import EngineSource
from .sql import SQLAlchemyBackend

DRIVERS = ("psycopg", "psycopg2", "asyncpg", "pg8000", "pymysql", "asyncmy", "aiomysql", "MySQLdb")
# SQLAlchemy adapts the errors of async drivers in modules of its own.
ADAPTED = "sqlalchemy.dialects."

LONGEST_PAUSE = 10
"""Seconds; sitq's own transactions never wait for anything but the server, so who pauses for longer has stopped."""


@guarded
class ServerBackend(SQLAlchemyBackend):
    """What the backends on servers have beside the verbs of every database: roles that the server sees to."""

    _lists: AccessLists

    def grants(self) -> str:
        """Return the statements that give the users on the lists their roles, to be read or run by you.

        Readers may look; writers may enqueue, work, cancel, retry and purge; admins may do everything with sitq's
        tables. Users and roles of these names must exist.

        Raises ``ConfigurationError`` if the backend was given no users.
        """
        return "".join(f"{statement};\n" for statement in self._grant_statements())

    def apply_grants(self) -> None:
        """Run what ``grants`` returns. The backend must be connected as the owner of the tables, or a superuser.

        On PostgreSQL all of it counts or nothing.

        Raises:
            ConfigurationError: the backend was given no users.
            BackendError: there is no such user, or this one may not grant.
        """
        statements = self._grant_statements()
        with Transaction(self._database, self._database.connect_to_write) as transaction:
            transaction.execute(statements)

    async def agrants(self) -> str:
        """See ``grants``."""
        return await asyncio.to_thread(self.grants)

    async def aapply_grants(self) -> None:
        """See ``apply_grants``."""
        await asyncio.to_thread(self.apply_grants)

    def _grant_statements(self) -> list[str]:
        self._lists.require_some()
        dialect = self._database.dialect
        assert isinstance(dialect, ServerDialect), "the kinds of the class are those of a server"
        return self._database.read(lambda session, _: dialect.grants(session.connection(), self._lists, self.models))


class ServerDialect(Dialect):
    """How a database on a server is opened and written."""

    clock: Executable
    """Selects the server's time."""

    connect_timeouts: ClassVar[dict[str, tuple[str, type[float]]]]
    """By driver: the keyword for ``connection_timeout``, and its type."""

    def __init__(self, source: EngineSource) -> None:
        self.source = source
        self.has_sync_driver = source.has_sync_driver
        self.has_async_driver = source.has_async_driver
        # Connections of other drivers cannot be closed once the loop that opened them is; an app looks after its own.
        closes_anywhere = source.driver[0] == "psycopg"
        self.reads_on_loops = source.has_async_driver and (source.borrowed or closes_anywhere)
        self.borrows_engines = source.borrowed

    def create_engine(self) -> Engine:
        return self.source.create_engine(self.connect_args)

    def create_async_engine(self) -> AsyncEngine:
        return self.source.create_async_engine(self.connect_args)

    def create_private_engine(self) -> AsyncEngine:
        return self.source.create_private_engine(self.connect_args)

    def connect_args(self, url: URL) -> dict[str, Any]:
        """The keywords for the driver of a URL that go with the options."""
        keyword, type_ = self.connect_timeouts.get(url.get_dialect().driver, (None, float))
        if keyword is None or keyword in url.query:
            return {}
        return {keyword: max(type_(self.source.connection_timeout), type_(1))}

    def connect_to_write(self, engine: Engine) -> Connection:
        """Open a connection of sitq's own: an app's engine lends its way to the server, not a place in its pool."""
        connection = engine.connect().execution_options(isolation_level="READ COMMITTED")
        try:
            connection.detach()
            self.set_up_to_write(connection)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    def set_up_to_write(self, connection: Connection) -> None:
        """Do what is due on a connection that is to write; the caller commits."""
        for statement in self.write_settings():
            connection.exec_driver_sql(statement)

    def limit_pauses(self, connection: Connection) -> None:
        for statement in self.pause_settings(connection):
            connection.exec_driver_sql(statement)
        connection.commit()

    def engine_for_tasks(self, engine: Engine) -> Engine:
        # Not an app's stricter level: the heartbeat writes to the very row that the transaction ends with.
        return engine.execution_options(isolation_level="READ COMMITTED") if self.borrows_engines else engine

    def connect_to_snapshot(self, engine: Engine) -> Connection:
        return engine.connect().execution_options(isolation_level="REPEATABLE READ")

    def is_reached_by(self, engine: Engine) -> bool:
        return leads_to(self.source, engine, server_address)

    @abstractmethod
    def grants(self, connection: Connection, lists: AccessLists, models: Models) -> list[str]:
        """The statements that give users their roles."""

    @abstractmethod
    def taking_over(self, tables: Sequence[str]) -> Iterable[str]:
        """The statements that let a transaction, once it has deleted all rows, be the only one that writes."""

    def back_up(self, database: Database, target: Path, progress: Progress | None) -> None:
        server_backups.back_up(database, target, progress)

    def restore(self, database: Database, damaged: bool, source: Path, paused: bool, progress: Progress | None) -> None:
        server_backups.restore(database, self.taking_over, source, paused, progress)

    @abstractmethod
    def write_settings(self) -> Iterable[str]:
        """The statements that set up the session that writes."""

    @abstractmethod
    def pause_settings(self, connection: Connection) -> Iterable[str]:
        """The statements that let the server end a transaction of the session after ``LONGEST_PAUSE``."""

    def presence(self, worker_id: str) -> Presence:
        return file_presence(worker_id, shared_folder(self.source.target), private=True)

    def read_clock(self, connection: Connection) -> datetime | None:
        moment: datetime = connection.execute(self.clock).scalar_one()
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def translate(self, error: BaseException) -> BackendError | None:
        if isinstance(error, SitqError):
            return None
        cause = error.orig if isinstance(error, DBAPIError) else error
        # A driver that cannot reach the server may say so in the words of the operating system.
        if getattr(error, "connection_invalidated", False) or isinstance(cause, OSError):
            return self.unavailable(cause or error)
        return self.translate_driver(cause) if is_drivers(cause) else None

    @abstractmethod
    def translate_driver(self, error: BaseException) -> BackendError:
        """Turn what the driver raised into one of sitq's errors."""

    def unavailable(self, error: BaseException) -> DatabaseUnavailableError:
        """The error for a server that is away, or a connection that was lost."""
        return DatabaseUnavailableError(f"the database {self.source.target} cannot be reached: {first_line(error)}")


def is_drivers(error: BaseException | None) -> TypeGuard[BaseException]:
    """Whether a driver raised this error, itself or through SQLAlchemy's adaptation of it."""
    modules = [each.__module__ for each in type(error).__mro__]
    return any(module.partition(".")[0] in DRIVERS or module.startswith(ADAPTED) for module in modules)


def first_line(error: BaseException) -> str:
    """What an error says, in one line: the rest of it may quote rows."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
