"""The contract on a server: one database for all tests of a class, emptied for each, since making one takes long."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from sqlalchemy import URL, NullPool, create_engine

from databases import empty_database
from sitq import BaseBackend, SQLAlchemyBackend
from sitq.testing.doors import ContractCase

TABLES = ("results", "tasks", "sitq_queues")


def emptied(url: URL, tables: Sequence[str] = TABLES) -> URL:
    """Return the URL of a database when no row is left in it."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for table in tables:
            connection.exec_driver_sql(f"DELETE FROM {table}")
    return url


class OnServer(ContractCase):
    """Subclasses say on which kind of database, over which driver, and which parts of the contract."""

    kind: ClassVar[str]
    driver: ClassVar[str]
    stack: ClassVar[ExitStack]
    url: ClassVar[URL]
    tables: ClassVar[Sequence[str]] = TABLES

    @classmethod
    def setup_class(cls) -> None:
        cls.stack = ExitStack()
        cls.url = cls.stack.enter_context(empty_database(cls.kind, Path()))
        cls.make_tables()

    @classmethod
    def make_tables(cls) -> None:
        with SQLAlchemyBackend(cls.url) as backend:
            backend.initialize()

    @classmethod
    def teardown_class(cls) -> None:
        cls.stack.close()

    def make_backend(self, folder: Path) -> BaseBackend:
        url = emptied(self.url, self.tables)
        return self.backend_for(url.set(drivername=self.driver))

    def backend_for(self, url: URL) -> BaseBackend:
        return SQLAlchemyBackend(url)
