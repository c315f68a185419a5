"""The contract on a server: one database for all tests of a class, emptied for each, since making one takes long."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from sqlalchemy import URL, NullPool, create_engine

from databases import empty_database
from sitq import BaseBackend, SQLAlchemyBackend
from sitq.testing.doors import ContractCase

TABLES = ("results", "tasks", "sitq_queues")


def emptied(url: URL) -> URL:
    """Return the URL of a database when no row is left in it."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for table in TABLES:
            connection.exec_driver_sql(f"DELETE FROM {table}")
    return url


class OnServer(ContractCase):
    """Subclasses say on which kind of database, over which driver, and which parts of the contract."""

    kind: ClassVar[str]
    driver: ClassVar[str]
    stack: ClassVar[ExitStack]
    url: ClassVar[URL]

    @classmethod
    def setup_class(cls) -> None:
        cls.stack = ExitStack()
        cls.url = cls.stack.enter_context(empty_database(cls.kind, Path()))
        with SQLAlchemyBackend(cls.url) as backend:
            backend.initialize()

    @classmethod
    def teardown_class(cls) -> None:
        cls.stack.close()

    def make_backend(self, folder: Path) -> BaseBackend:
        url = emptied(self.url)
        return self.backend_for(url.set(drivername=self.driver))

    def backend_for(self, url: URL) -> BaseBackend:
        return SQLAlchemyBackend(url)
