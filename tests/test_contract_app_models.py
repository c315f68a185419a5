"""The contract holds for tables that an app owns, under names of its own; on servers the parts with special SQL."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL, NullPool, create_engine

import app_models
from server_contract import OnServer
from sitq import BaseBackend, SQLAlchemyBackend, SQLiteBackend
from sitq.testing import BackendContract
from sitq.testing.claiming import ClaimingContract


def create_tables(url: URL | str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    app_models.Base.metadata.create_all(engine)
    engine.dispose()


@cache
def database_with_tables() -> bytes:
    with TemporaryDirectory() as folder:
        create_tables(f"sqlite:///{folder}/app.db")
        return (Path(folder) / "app.db").read_bytes()


class TestSQLite(BackendContract):
    def make_backend(self, folder: Path) -> BaseBackend:
        folder.mkdir(exist_ok=True)
        (folder / "app.db").write_bytes(database_with_tables())
        return SQLiteBackend(folder / "app.db", models=app_models.MODELS)


class OnAppsServer(OnServer):
    tables = tuple(table.name for table in reversed(app_models.MODELS.tables))

    @classmethod
    def make_tables(cls) -> None:
        create_tables(cls.url)

    def backend_for(self, url: URL) -> BaseBackend:
        return SQLAlchemyBackend(url, models=app_models.MODELS)


class TestPostgreSQL(OnAppsServer, ClaimingContract):
    kind = "postgresql"
    driver = "postgresql"


class TestMariaDB(OnAppsServer, ClaimingContract):
    kind = "mariadb"
    driver = "mariadb"
