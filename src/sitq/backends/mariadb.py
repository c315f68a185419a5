"""MariaDB, and MySQL: all that they do differently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

from sqlalchemy import Connection, Engine, Insert, TableClause, func, select, text

from ..exceptions import BackendError, DatabaseLockedError, NotAvailableError
from ..models import Models
from .dialects import checked_source, register
from .grants import AccessLists, ServerOptions, mariadb_grants, take_lists
from .mariadb_errors import LOST_RACES, errno, translate
from .servers import LONGEST_PAUSE, ServerBackend, ServerDialect
from .sources import DatabaseAddress

# Named locks belong to the server, not to a database, and a name is at most 64 characters long.
SCHEMA_LOCK = func.concat("sitq_", func.md5(func.database()))
LONGEST_MIGRATION = 7 * 86400  # seconds

# The first that pass over locked rows.
OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0, 1)}


class MariaDBBackend(ServerBackend):
    """Tasks and results in a MariaDB database (10.6 or later), or a MySQL one (8.0 or later).

    Nothing is opened before the first use. One connection more than the pool holds is kept for writing.
    Other processes are not woken: their workers poll. Before MariaDB 10.8, which has descending indexes, a
    claim sorts all due tasks of its queue.

    Args:
        database: a URL such as ``mariadb+pymysql://user@host/database``, an ``Engine`` or an ``AsyncEngine``.
            An engine is borrowed: it is never disposed.
        auto_upgrade: upgrade an older schema when the database is opened.
        models: what ``declare_models`` returned, if your app owns the tables; then they are never altered.
        options: see ``EngineOptions`` and ``ServerOptions``.

    Raises:
        ConfigurationError: a value is not allowed; the message names option, value and what is.
        NotAvailableError: the URL's driver is not installed.
    """

    kinds = ("mariadb", "mysql")

    def __init__(
        self,
        database: DatabaseAddress,
        *,
        auto_upgrade: bool = True,
        models: Models | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._lists = take_lists(options)
        source = checked_source(database, options, self.kinds)
        self.use(MariaDBDialect(source), target=source.target, auto_upgrade=auto_upgrade, models=models)


class MariaDBDialect(ServerDialect):
    """How MariaDB is opened and written."""

    # A claim of many tasks in a small table would else read and lock all that are due, and leave none for others.
    index_hint = "FORCE INDEX (`{}`)"
    clock = select(text("UTC_TIMESTAMP(6)"))
    connect_timeouts = dict.fromkeys(("pymysql", "asyncmy", "aiomysql", "mysqldb"), ("connect_timeout", int))

    @staticmethod
    def insert_if_free(table: TableClause) -> Insert:
        from sqlalchemy.dialects.mysql import insert

        return insert(table).on_duplicate_key_update(id=table.c.id)  # IGNORE would hide other errors too

    @staticmethod
    def insert_or_replace(table: TableClause, key: str) -> Insert:
        from sqlalchemy.dialects.mysql import insert

        statement = insert(table)
        others = {column.name: statement.inserted[column.name] for column in table.c if column.name != key}
        return statement.on_duplicate_key_update(others)

    def write_settings(self) -> Iterable[str]:
        return (f"SET SESSION innodb_lock_wait_timeout = {max(1, round(self.source.connection_timeout))}",)

    def pause_settings(self, connection: Connection) -> Iterable[str]:
        if getattr(connection.dialect, "is_mariadb", False):
            return (f"SET SESSION idle_transaction_timeout = {LONGEST_PAUSE}",)
        return ()  # MySQL knows no such limit

    def grants(self, connection: Connection, lists: AccessLists, models: Models) -> list[str]:
        database = connection.execute(select(func.database())).scalar_one()
        return list(mariadb_grants(connection, lists, models, database))

    def taking_over(self, tables: Sequence[str]) -> Iterable[str]:
        # Locking tables would commit; so the gaps between the deleted rows are locked with them.
        return ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",)

    def check_server(self, connection: Connection) -> None:
        product = "MariaDB" if getattr(connection.dialect, "is_mariadb", False) else "MySQL"
        version, oldest = connection.dialect.server_version_info or OLDEST[product], OLDEST[product]
        if version < oldest:
            has, needs = (".".join(map(str, each)) for each in (version, oldest))
            raise NotAvailableError(f"{self.source.target} is {product} {has}; sitq needs {needs} or later")

    @contextmanager
    def lock_schema(self, engine: Engine) -> Iterator[Connection]:
        with engine.connect() as connection:
            if connection.execute(select(func.get_lock(SCHEMA_LOCK, LONGEST_MIGRATION))).scalar() != 1:
                raise DatabaseLockedError(f"the schema of {self.source.target} is being changed by somebody else")
            connection.commit()
            try:
                with connection.begin():
                    yield connection
            finally:
                connection.execute(select(func.release_lock(SCHEMA_LOCK)))

    def lost_race(self, error: BaseException) -> bool:
        return errno(getattr(error, "orig", None) or error) in LOST_RACES

    def translate_driver(self, error: BaseException) -> BackendError:
        return translate(error, self.source.target)


for kind in MariaDBBackend.kinds:
    register(kind, MariaDBDialect)
