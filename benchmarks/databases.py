"""Empty databases for the benchmarks, as the URLs that sitq takes, and what lets them know their tables."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import NullPool, create_engine, make_url

import sitq

SERVERS = {
    "postgresql": ("SITQ_BENCHMARK_SERVER", "postgresql://postgres@127.0.0.1:5432/postgres", "postgresql+psycopg"),
    "mariadb": ("SITQ_BENCHMARK_MARIADB", "mariadb://root@127.0.0.1:3306", "mariadb+pymysql"),
}
"""For each server the environment variable that names another, the one on this machine, and the driver."""

SETTLING = {"postgresql": "VACUUM ANALYZE", "mariadb": "ANALYZE TABLE tasks"}
"""What a server does by itself in the course of a day."""

KINDS = ("sqlite", *SERVERS)


def empty_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for a file; leaving its block removes it."""
    return tempfile.TemporaryDirectory(prefix="sitq-benchmark-")


@contextmanager
def empty_database(kind: str) -> Iterator[str]:
    """Make a database of this kind, and remove it in the end."""
    if kind == "sqlite":
        with empty_folder() as folder:
            yield f"sqlite:///{folder}/tasks.db"
        return
    variable, default, driver = SERVERS[kind]
    server = make_url(os.environ.get(variable, default)).set(drivername=driver)
    name = f"sitq_benchmark_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}" + (" WITH (FORCE)" if kind == "postgresql" else ""))


def without_driver(url: str) -> str:
    """A server's URL as its own libraries take it."""
    address = make_url(url)
    return address.set(drivername=address.get_backend_name()).render_as_string(hide_password=False)


def settle(backend: sitq.SQLAlchemyBackend, kind: str) -> None:
    """Let the database take its statistics and tidy up."""
    if kind not in SETTLING:
        backend.optimize()
        return
    with backend.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(SETTLING[kind])
