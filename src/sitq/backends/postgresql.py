"""PostgreSQL: workers on any number of hosts, woken with the commit; and all that it does differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, ClassVar, Unpack

from sqlalchemy import ColumnElement, Connection, Engine, Insert, TableClause, event, func, inspect, select
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateSchema

from ..engines import Engines
from ..exceptions import BackendError, NotAvailableError
from ..listening import Listener
from ..models import Models, RowsAsTable
from ..options import check_bool
from ..shortcut import Shortcut
from ..wakeups import Wakeups
from .dialects import checked_source, register
from .grants import AccessLists, ServerOptions, postgresql_grants, take_lists
from .postgresql_bulk import as_recordset, copy_in, is_sync_psycopg, recordset
from .postgresql_commits import PostgreSQLShortcut, committing_itself
from .postgresql_errors import LOST_RACES, sqlstate, translate
from .postgresql_listening import HEARING, OwnVoice, PostgreSQLEar
from .servers import LONGEST_PAUSE, ServerBackend, ServerDialect
from .sources import DatabaseAddress, EngineSource
from .unheard import Unheard

CHANNEL = "sitq"
SCHEMA_LOCK = 0x73697471
"""The key of the advisory lock that is held while the schema is changed: the letters of ``sitq``."""

OLDEST = (12,)

SWITCHED_HERE = ("psycopg", "asyncpg")
"""The drivers that need not tell the server when statements are to commit themselves, and when no more.

The others would send it something when the connection goes back to its pool, where SQLAlchemy bears no error.
"""


class PostgreSQLBackend(ServerBackend):
    """Tasks and results in a PostgreSQL database.

    Nothing is opened before the first use. Apart from the pools it keeps one connection for writing and, as
    long as a worker or somebody who waits for a result is there, one that listens.

    Args:
        database: a URL such as ``postgresql+psycopg://user@host/database``, an ``Engine`` or an ``AsyncEngine``.
            An engine is borrowed: it is never disposed.
        notify: tell other processes of due and ended tasks as they are committed. Without, they poll.
        auto_upgrade: upgrade an older schema when the database is opened.
        models: what ``declare_models`` returned, if your app owns the tables; then they are never altered.
        options: see ``EngineOptions`` and ``ServerOptions``.

    Raises:
        ConfigurationError: a value is not allowed; the message names option, value and what is.
        NotAvailableError: the URL's driver is not installed.
    """

    kinds = ("postgresql",)

    def __init__(
        self,
        database: DatabaseAddress,
        *,
        notify: bool = True,
        auto_upgrade: bool = True,
        models: Models | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._lists = take_lists(options)
        source = checked_source(database, options, self.kinds)
        self.use(
            PostgreSQLDialect(source, notify=check_bool("notify", notify)),
            target=source.target,
            auto_upgrade=auto_upgrade,
            models=models,
            schema=source.schema,
        )


class PostgreSQLDialect(ServerDialect):
    """How PostgreSQL is opened, written and listened to."""

    claims_at_once = rounds_overlap = True
    clock = select(func.clock_timestamp())
    connect_timeouts: ClassVar = {
        "psycopg": ("connect_timeout", int),
        "psycopg2": ("connect_timeout", int),
        "asyncpg": ("timeout", float),
    }

    def __init__(self, source: EngineSource, *, notify: bool = True) -> None:
        super().__init__(source)
        self.schema = source.schema
        self._channel = CHANNEL if self.schema is None else f"{CHANNEL}_{self.schema}"
        self.news = sender(self._channel) if notify else None
        self._own = OwnVoice()

    bulk_insert = staticmethod(copy_in)
    rows_as_table = RowsAsTable(recordset, as_recordset)

    @staticmethod
    def insert_if_free(table: TableClause) -> Insert:
        from sqlalchemy.dialects.postgresql import insert

        return insert(table).on_conflict_do_nothing()

    @staticmethod
    def insert_or_replace(table: TableClause, key: str) -> Insert:
        from sqlalchemy.dialects.postgresql import insert

        statement = insert(table)
        others = {column.name: statement.excluded[column.name] for column in table.c if column.name != key}
        return statement.on_conflict_do_update(index_elements=[key], set_=others)

    def create_private_engine(self) -> AsyncEngine:
        engine = super().create_private_engine()
        event.listen(engine.sync_engine, "handle_error", know_lost)
        return engine

    def write_settings(self) -> Iterable[str]:
        return (f"SET lock_timeout = {round(self.source.connection_timeout * 1000)}",)

    def pause_settings(self, connection: Connection) -> Iterable[str]:
        return (f"SET idle_in_transaction_session_timeout = {LONGEST_PAUSE * 1000}",)

    def grants(self, connection: Connection, lists: AccessLists, models: Models) -> list[str]:
        database, schema = connection.execute(select(func.current_database(), func.current_schema())).one()
        return list(postgresql_grants(connection, lists, models, database, schema))

    def taking_over(self, tables: Sequence[str]) -> Iterable[str]:
        return (f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE",)

    def check_server(self, connection: Connection) -> None:
        version = connection.dialect.server_version_info or OLDEST
        if version < OLDEST:
            raise NotAvailableError(f"{self.source.target} is PostgreSQL {version[0]}; sitq needs {OLDEST[0]} or later")

    @contextmanager
    def lock_schema(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection, connection.begin():
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            if self.schema is not None and not inspect(connection).has_schema(self.schema):
                connection.execute(CreateSchema(self.schema))
            self.enter_schema(connection)
            yield connection

    def connect_to_look(self, engine: Engine) -> Connection:
        connection = super().connect_to_look(engine)
        if self.schema is not None:  # it is entered for a transaction, which an app's engine may not begin by itself
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            self.enter_schema(connection)
        return connection

    def enter_schema(self, connection: Connection) -> None:
        if self.schema is not None:
            path = connection.dialect.identifier_preparer.quote_identifier(self.schema)
            connection.execute(select(func.set_config("search_path", path, True)))

    def read_at_once(self, connection: Connection) -> None:
        """One way to the server instead of three.

        An app's engine begins its transactions in the app's way, which may set what its reads need.
        """
        if not self.borrows_engines and connection.dialect.driver in SWITCHED_HERE:
            connection.execution_options(isolation_level="AUTOCOMMIT")

    def listener(self, engines: Engines, wakeups: Wakeups) -> Listener | None:
        self._own = own = OwnVoice()
        if self.news is None or self.source.driver not in HEARING:
            return None
        return Listener(lambda: PostgreSQLEar(engines, self._channel, own), wakeups)

    def set_up_to_write(self, connection: Connection) -> None:
        super().set_up_to_write(connection)
        self._own.know(connection, connection.execute(select(func.pg_backend_pid())).scalar_one())

    def alone(self, connection: Connection) -> AbstractContextManager[bool]:
        """One way to the server instead of three: BEGIN, the statement, COMMIT."""
        return committing_itself(connection)

    def shortcut(self, connection: Connection, note_time: Callable[[float], None]) -> Shortcut | None:
        if not is_sync_psycopg(connection):
            return None
        return PostgreSQLShortcut(connection, Unheard(connection), note_time)

    def lost_race(self, error: BaseException) -> bool:
        return sqlstate(getattr(error, "orig", None) or error) in LOST_RACES

    def translate_driver(self, error: BaseException) -> BackendError:
        return translate(error, self.source.target)


def know_lost(context: ExceptionContext) -> OperationalError | None:
    """Take it for a lost connection if asyncpg, asked just when the server hangs up, stumbles over its own state."""
    error = context.original_exception
    if type(error).__name__ != "InternalClientError":
        return None
    context.is_disconnect = True
    return OperationalError(None, None, error, hide_parameters=True, connection_invalidated=True)


@cache
def sender(channel: str) -> Callable[[ColumnElement[str]], ColumnElement[Any]]:
    """What notifies a channel of a topic. The same topic again in one transaction is sent once."""

    def send(topic: ColumnElement[str]) -> ColumnElement[Any]:
        return func.pg_notify(channel, topic)

    return send


for kind in PostgreSQLBackend.kinds:
    register(kind, PostgreSQLDialect, has_schemas=True)
