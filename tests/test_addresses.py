"""What a backend on a server may be made from, and what it says of what it may not. No server is asked."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine

import sitq

POSTGRESQL = "postgresql://app:sesame@db.example.com:5433/app?sslpassword=sesame"


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        (POSTGRESQL, sitq.PostgreSQLBackend),
        ("postgres://db.example.com/app", sitq.PostgreSQLBackend),
        ("postgresql+psycopg://db.example.com/app", sitq.PostgreSQLBackend),
        ("mariadb://db.example.com/app", sitq.MariaDBBackend),
        ("mysql+pymysql://db.example.com/app", sitq.MariaDBBackend),
        (make_url("mariadb+asyncmy://db.example.com/app"), sitq.MariaDBBackend),
        ("sqlite:///app.db", sitq.SQLiteBackend),
        ("app.db", sitq.SQLiteBackend),
        (Path("app.db"), sitq.SQLiteBackend),
    ],
)
def test_open_backend_picks_by_the_url(url: Any, backend: type[sitq.BaseBackend]) -> None:
    opened = sitq.open_backend(url)
    assert type(opened) is backend
    assert isinstance(opened, sitq.SQLAlchemyBackend)


def test_open_backend_hands_the_options_on() -> None:
    assert sitq.open_backend(POSTGRESQL, notify=False, connection_pool_size=3).engine.pool.size() == 3  # type: ignore[attr-defined]


def test_no_secret_of_a_url_is_shown() -> None:
    backend = sitq.PostgreSQLBackend(POSTGRESQL)
    assert repr(backend) == "PostgreSQLBackend('postgresql://app:***@db.example.com:5433/app')"
    for wrong in (
        "postgresql//app:sesame@db/app",
        "oracle://app:sesame@db/app",
        "sqlite://app:sesame@db/app?x=sesame",
    ):
        with pytest.raises(sitq.ConfigurationError) as raised:
            sitq.SQLAlchemyBackend(wrong)
        assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("backend", [sitq.SQLAlchemyBackend, sitq.PostgreSQLBackend, sitq.MariaDBBackend])
@pytest.mark.parametrize(
    "database", [None, 5, b"postgresql://db/app", Path("app.db"), "app.db", "", "postgresql+nothing://db"]
)
def test_what_is_no_database_is_refused(backend: type[sitq.SQLAlchemyBackend], database: Any) -> None:
    with pytest.raises(sitq.ConfigurationError):
        backend(database)


def test_a_backend_is_for_its_own_kind() -> None:
    with pytest.raises(sitq.ConfigurationError, match="'mariadb': give one of postgresql"):
        sitq.PostgreSQLBackend("mariadb://db/app")
    with pytest.raises(sitq.ConfigurationError, match="'sqlite': give one of mariadb, mysql"):
        sitq.MariaDBBackend(create_engine("sqlite://"))


@pytest.mark.parametrize(
    "options",
    [
        {"connection_pool_size": 0},
        {"max_overflow": -1},
        {"pool_timeout": "soon"},
        {"pool_recycle": 0},
        {"connection_timeout": 0},
        {"log_queries": 1},
        {"auto_upgrade": None},
        {"notify": "yes"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_are_checked_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(sitq.ConfigurationError, match=next(iter(options))):
        sitq.PostgreSQLBackend(POSTGRESQL, **options)


def test_an_engine_brings_its_own_options() -> None:
    engine = create_engine("postgresql+psycopg://db/app")
    sitq.PostgreSQLBackend(engine, connection_timeout=5)
    with pytest.raises(sitq.ConfigurationError, match="max_overflow"):
        sitq.PostgreSQLBackend(engine, max_overflow=5)


def test_a_missing_driver_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(sitq.NotAvailableError, match=r"\[postgresql\]"):
        sitq.PostgreSQLBackend(POSTGRESQL)
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(sitq.NotAvailableError, match=r"\[mariadb\]"):
        sitq.MariaDBBackend("mariadb://db/app")


def test_the_second_driver_of_mariadb_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncmy", None)

    async def look() -> None:
        with pytest.raises(sitq.NotAvailableError, match="use engine"):
            _ = sitq.MariaDBBackend("mariadb://db/app").async_engine

    asyncio.run(look())


def test_the_engine_that_there_is_none_of_is_named() -> None:
    with pytest.raises(sitq.NotAvailableError, match="use async_engine"):
        _ = sitq.PostgreSQLBackend("postgresql+asyncpg://db/app").engine
    with pytest.raises(sitq.NotAvailableError, match="use async_engine"):
        _ = sitq.PostgreSQLBackend(create_async_engine("postgresql+psycopg://db/app")).engine


def test_lent_engines_are_given_back_as_they_are() -> None:
    engine = create_engine("postgresql+psycopg://db/app")
    assert sitq.PostgreSQLBackend(engine).engine is engine

    async def look() -> None:
        async_engine = create_async_engine("postgresql+psycopg://db/app")
        assert sitq.PostgreSQLBackend(async_engine).async_engine is async_engine

    asyncio.run(look())


def test_closing_disposes_of_no_lent_engine(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    pool = engine.pool
    with sitq.SQLAlchemyBackend(engine) as backend:
        backend.list_all_tasks()
    assert engine.pool is pool
    assert pool.checkedin() == 1  # type: ignore[attr-defined]
    engine.dispose()


def test_an_apps_transaction_on_a_lent_engine_is_left_as_it_was(tmp_path: Path) -> None:
    """It begins as the app's driver does, without a write lock, while the backend writes."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}", pool_size=2, max_overflow=0)
    with sitq.SQLAlchemyBackend(engine) as backend, engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM tasks").scalar() == 0
        sitq.SyncTaskQueue(backend).enqueue(len, "x")
        assert connection.connection.dbapi_connection.in_transaction is False  # type: ignore[union-attr]
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 0
        assert connection.exec_driver_sql("PRAGMA legacy_alter_table").scalar() == 0
    engine.dispose()
