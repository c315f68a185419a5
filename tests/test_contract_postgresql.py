"""PostgreSQL keeps the contract, over every driver, and over engines that an app lends."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from server_contract import OnServer
from sitq import BaseBackend, PostgreSQLBackend
from sitq.testing import BackendContract
from sitq.testing.finishing import FinishingContract
from sitq.testing.opening import OpeningContract

T = TypeVar("T")


class TestPsycopg(OnServer, BackendContract):
    kind = "postgresql"
    driver = "postgresql+psycopg"


class TestAsyncpg(OnServer, BackendContract):
    kind = "postgresql"
    driver = "postgresql+asyncpg"

    def backend_for(self, url: URL) -> BaseBackend:
        pytest.importorskip("asyncpg")
        return PostgreSQLBackend(url)


class Lent(OnServer):
    """The engine is the app's: the backend leaves it as it is, and the app disposes of it.

    It differs in how connections come about, so that the parts of the contract about claims and opening tell.
    """

    kind = "postgresql"
    driver = "postgresql+psycopg"

    def lend(self, engine: T) -> T:
        self.lent.append(engine)
        return engine

    def setup_method(self) -> None:
        self.lent: list[Any] = []


class TestLentEngine(Lent, FinishingContract, OpeningContract):
    def backend_for(self, url: URL) -> BaseBackend:
        return PostgreSQLBackend(self.lend(create_engine(url, pool_size=2, max_overflow=0)))

    def teardown_method(self) -> None:
        for engine in self.lent:
            engine.dispose()


class TestLentAsyncEngine(Lent, FinishingContract, OpeningContract):
    def backend_for(self, url: URL) -> BaseBackend:
        return PostgreSQLBackend(self.lend(create_async_engine(url, pool_size=2, max_overflow=0)))

    def teardown_method(self) -> None:
        for engine in self.lent:
            asyncio.run(engine.dispose())
