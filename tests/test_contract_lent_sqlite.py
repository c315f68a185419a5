"""SQLite keeps the contract about claims and opening over engines that an app lends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import StaticPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from sitq import BaseBackend, SQLAlchemyBackend, SQLiteBackend
from sitq.testing.finishing import FinishingContract
from sitq.testing.opening import OpeningContract
from sitq.testing.records import new_row
from test_contract_sqlite import empty_database


def database_in(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.db").write_bytes(empty_database())
    return folder / "app.db"


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    path = database_in(tmp_path)
    with SQLAlchemyBackend(f"sqlite:///{path}", connection_pool_size=2) as backend:
        (task_id,) = backend.enqueue([new_row()])
    with SQLiteBackend(path) as backend:
        assert backend.list_all_tasks() == [task_id]


class TestLentEngine(FinishingContract, OpeningContract):
    def setup_method(self) -> None:
        self.lent = []  # type: ignore[var-annotated]

    def make_backend(self, folder: Path) -> BaseBackend:
        self.lent.append(create_engine(f"sqlite:///{database_in(folder)}", pool_size=2, max_overflow=0))
        return SQLAlchemyBackend(self.lent[-1])

    def teardown_method(self) -> None:
        for engine in self.lent:
            engine.dispose()


class TestLentAsyncEngine(TestLentEngine):
    def make_backend(self, folder: Path) -> BaseBackend:
        self.lent.append(create_async_engine(f"sqlite+aiosqlite:///{database_in(folder)}", pool_size=2, max_overflow=0))
        return SQLAlchemyBackend(self.lent[-1])

    def teardown_method(self) -> None:
        for engine in self.lent:
            asyncio.run(engine.dispose())


class TestLentMemory(TestLentEngine):
    """One connection for everything, as an app's tests have it."""

    def make_backend(self, folder: Path) -> BaseBackend:
        self.lent.append(create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}))
        return SQLAlchemyBackend(self.lent[-1])
