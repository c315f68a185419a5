"""The contract holds for tables that an app owns, under names of its own; test_app_models.py looks at the servers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import NullPool, create_engine

import app_models
from sitq import BaseBackend, SQLiteBackend
from sitq.testing import BackendContract


@cache
def database_with_tables() -> bytes:
    with TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/app.db", poolclass=NullPool)
        app_models.Base.metadata.create_all(engine)
        return (Path(folder) / "app.db").read_bytes()


class TestSQLite(BackendContract):
    def make_backend(self, folder: Path) -> BaseBackend:
        folder.mkdir(exist_ok=True)
        (folder / "app.db").write_bytes(database_with_tables())
        return SQLiteBackend(folder / "app.db", models=app_models.MODELS)
