"""Any sequence of verbs does to a server what it does to the model in memory of ``test_backend_model``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import URL

from databases import empty_database
from server_contract import emptied
from sitq import SQLAlchemyBackend
from sitq.testing.doors import AsyncDoor, Door, SyncDoor
from test_backend_model import BackendModel, settled


class ServerModel(BackendModel):
    """Its subclass for each driver is run by a test of that name; the database is emptied for each example."""

    url: ClassVar[URL]

    def make_door(self, folder: Path) -> Door:
        door = SyncDoor if self.is_sync else AsyncDoor
        return door(SQLAlchemyBackend(emptied(self.url).set(drivername=self.driver)))

    is_sync: ClassVar[bool]
    driver: ClassVar[str]


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with empty_database(request.param, tmp_path) as url:
        with SQLAlchemyBackend(url) as backend:
            backend.initialize()
        yield url


@pytest.mark.parametrize("door", ["sync", "async"])
def test_a_server_does_what_the_model_does(url: URL, door: str) -> None:
    class Model(ServerModel):
        is_sync = door == "sync"
        driver = url.drivername

    Model.url = url
    check(Model)


def test_asyncpg_does_what_the_model_does(tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")

    class Model(ServerModel):
        is_sync = False
        driver = "postgresql+asyncpg"

    with empty_database("postgresql", tmp_path) as url:
        with SQLAlchemyBackend(url) as backend:
            backend.initialize()
        Model.url = url
        check(Model)


def check(model: type[ServerModel]) -> None:
    case = model.TestCase
    case.settings = settled(10)
    case("runTest").runTest()
