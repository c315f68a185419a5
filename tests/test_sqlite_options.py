"""Every documented option of the SQLite backend, read back from live connections and pools."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sitq

Door = Callable[[sitq.SQLiteBackend, str], Any]


def ask_sync(backend: sitq.SQLiteBackend, pragma: str) -> Any:
    backend.initialize()
    with backend.engine.connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()


def ask_async(backend: sitq.SQLiteBackend, pragma: str) -> Any:
    async def ask() -> Any:
        await backend.ainitialize()
        async with backend.async_engine.connect() as connection:
            answer = (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar()
        await backend.aclose()
        return answer

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Door:
    return request.param


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., sitq.SQLiteBackend]]:
    made: list[sitq.SQLiteBackend] = []

    def make(database: Any = "tasks.db", **options: Any) -> sitq.SQLiteBackend:
        made.append(sitq.SQLiteBackend(database if database == ":memory:" else tmp_path / database, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.mark.parametrize(
    ("options", "pragma", "expected"),
    [
        ({}, "journal_mode", "wal"),
        ({"enable_wal": True}, "journal_mode", "wal"),
        ({"enable_wal": False}, "journal_mode", "delete"),
        ({"journal_mode": "WAL"}, "journal_mode", "wal"),
        ({"journal_mode": "truncate"}, "journal_mode", "truncate"),
        ({"journal_mode": "PERSIST"}, "journal_mode", "persist"),
        ({"journal_mode": "MEMORY"}, "journal_mode", "memory"),
        ({"journal_mode": "OFF"}, "journal_mode", "off"),
        ({}, "synchronous", 1),
        ({"synchronous": "OFF"}, "synchronous", 0),
        ({"synchronous": "normal"}, "synchronous", 1),
        ({"synchronous": "FULL"}, "synchronous", 2),
        ({"synchronous": "EXTRA"}, "synchronous", 3),
        ({"connection_timeout": 60.0}, "busy_timeout", 60_000),
        ({"connection_timeout": 0.25}, "busy_timeout", 250),
        ({"checkpoint_interval": 500}, "wal_autocheckpoint", 500),
        ({"checkpoint_interval": 0}, "wal_autocheckpoint", 0),
        ({"cache_size": 10_000}, "cache_size", 10_000),
        ({"cache_size": -64_000}, "cache_size", -64_000),
        ({"temp_store": "DEFAULT"}, "temp_store", 0),
        ({"temp_store": "FILE"}, "temp_store", 1),
        ({"temp_store": "memory"}, "temp_store", 2),
        ({}, "foreign_keys", 1),
    ],
)
def test_pragma_is_set_through_both_doors(make: Any, ask: Door, options: Any, pragma: str, expected: Any) -> None:
    assert ask(make(**options), pragma) == expected


def test_pragmas_hold_for_the_connection_that_writes(make: Any) -> None:
    backend = make(synchronous="FULL", cache_size=777)
    seen: dict[str, Any] = {}

    def look(connection: Any, models: Any) -> None:
        for pragma in ("synchronous", "cache_size"):
            seen[pragma] = connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()

    backend._database.write(look)
    assert seen == {"synchronous": 2, "cache_size": 777}


def pools(backend: sitq.SQLiteBackend) -> list[Any]:
    async def async_pool() -> Any:
        return backend.async_engine.pool

    return [backend.engine.pool, asyncio.run(async_pool())]


def test_pool_options_reach_both_pools(make: Any) -> None:
    backend = make(connection_pool_size=15, max_overflow=5, pool_timeout=12.5, pool_recycle=3600.0)
    for pool in pools(backend):
        assert (pool.size(), pool._max_overflow, pool._timeout, pool._recycle) == (15, 5, 12.5, 3600.0)


def test_a_pool_that_is_used_up_is_an_error_in_time(make: Any) -> None:
    backend = make(connection_pool_size=1, max_overflow=0, pool_timeout=0.05)
    backend.initialize()
    with backend.engine.connect(), pytest.raises(sitq.PoolTimeoutError, match="pool_timeout"):
        backend.get_task("x")


def test_one_pooled_connection_is_enough_to_write_and_read(make: Any) -> None:
    backend = make(connection_pool_size=1, max_overflow=0, pool_timeout=0.5)
    queue = sitq.SyncTaskQueue(backend)
    assert queue.get_task(queue.enqueue(len, "x")).status == "queued"


def test_a_connection_is_opened_anew_after_pool_recycle(make: Any) -> None:
    backend = make(pool_recycle=0.000_001)
    seen = set()
    kept = []  # so that no two connections can have the same identity
    for _ in range(3):
        with backend.engine.connect() as connection:
            kept.append(connection.connection.dbapi_connection)
            seen.add(id(kept[-1]))
    assert len(seen) == 3


def test_connection_timeout_bounds_the_wait_for_a_lock(make: Any, tmp_path: Path) -> None:
    backend = make(connection_timeout=0.05)
    backend.initialize()
    other = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sitq.DatabaseLockedError, match="connection_timeout"):
        sitq.SyncTaskQueue(backend).enqueue(len, "x")
    other.execute("ROLLBACK")
    other.close()
    assert sitq.SyncTaskQueue(backend).enqueue(len, "x")


def test_an_explicit_journal_mode_wins_over_enable_wal_with_a_warning(make: Any, ask: Door) -> None:
    with pytest.warns(sitq.SitqWarning, match="enable_wal=True and journal_mode='MEMORY'") as warned:
        backend = make(enable_wal=True, synchronous="OFF", journal_mode="MEMORY")
    assert warned[0].filename == __file__
    assert ask(backend, "journal_mode") == "memory"


def test_readonly_opens_for_looking_only(make: Any, ask: Door) -> None:
    with make() as writable:
        task_id = sitq.SyncTaskQueue(writable).enqueue(len, "x")
    backend = make(readonly=True, connection_pool_size=50, cache_size=50_000)
    assert backend.get_task(task_id).status == "queued"
    assert ask(backend, "cache_size") == 50_000
    with pytest.raises(sitq.ReadOnlyError, match="readonly=True"):
        sitq.SyncTaskQueue(backend).enqueue(len, "x")
    with (
        backend.engine.connect() as connection,
        pytest.raises(Exception, match="readonly database"),
    ):
        connection.exec_driver_sql("DELETE FROM tasks")


def test_readonly_makes_nothing(make: Any, tmp_path: Path) -> None:
    with pytest.raises(sitq.BackendError, match="does not exist"):
        make("deep/missing.db", readonly=True).initialize()
    assert list(tmp_path.iterdir()) == []


def test_log_queries_tells_statements_and_no_payload(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sitq.sql"):
        sitq.SyncTaskQueue(make(log_queries=True)).enqueue(print, "secret argument")
    inserts = [record for record in caplog.records if record.message.startswith("INSERT INTO tasks")]
    assert len(inserts) == 1
    assert inserts[0].milliseconds > 0
    assert "secret" not in caplog.text


def test_debug_lets_the_logger_speak(make: Any) -> None:
    logger = logging.getLogger("sitq")
    before = logger.level
    try:
        make(debug=True)
        assert logger.isEnabledFor(logging.DEBUG)
        assert logger.handlers == []
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("database", ["tasks.db", Path("tasks.db"), ":memory:"])
@pytest.mark.parametrize("by_name", [False, True])
def test_database_is_a_path_or_memory(tmp_path: Path, monkeypatch: Any, database: Any, by_name: bool) -> None:
    monkeypatch.chdir(tmp_path)
    backend = sitq.SQLiteBackend(database=database) if by_name else sitq.SQLiteBackend(database)
    with backend:
        backend.initialize()
    assert (tmp_path / "tasks.db").exists() == (database != ":memory:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database": ""}, "database=''"),
        ({"database": 3}, "database=3"),
        ({"database": b"tasks.db"}, "database=b'tasks.db'"),
        ({"database": "a\0b"}, "database="),
        ({"database": "postgresql://user:secret@host/db"}, "open_backend"),
        ({"connection_pool_size": 0}, "connection_pool_size=0"),
        ({"connection_pool_size": "10"}, "connection_pool_size='10'"),
        ({"connection_pool_size": True}, "connection_pool_size=True"),
        ({"max_overflow": -1}, "max_overflow=-1"),
        ({"pool_timeout": -1}, "pool_timeout=-1"),
        ({"pool_recycle": 0}, "pool_recycle=0"),
        ({"connection_timeout": -0.1}, "connection_timeout=-0.1"),
        ({"connection_timeout": float("nan")}, "connection_timeout=nan"),
        ({"enable_wal": "yes"}, "enable_wal='yes'"),
        ({"checkpoint_interval": -1}, "checkpoint_interval=-1"),
        ({"synchronous": "SOMETIMES"}, "synchronous='SOMETIMES'"),
        ({"journal_mode": "wall"}, "journal_mode='wall'"),
        ({"cache_size": 1.5}, "cache_size=1.5"),
        ({"temp_store": "DISK"}, "temp_store='DISK'"),
        ({"readonly": 1}, "readonly=1"),
        ({"debug": "on"}, "debug='on'"),
        ({"log_queries": None}, "log_queries=None"),
        ({"auto_upgrade": "no"}, "auto_upgrade='no'"),
        ({"encryption_key": ""}, "encryption_key"),
        ({"encryption_key": b"my secret"}, "encryption_key"),
        ({"encryption_key": "my secret", "cipher": "ROT-13"}, "cipher='ROT-13'"),
        ({"cipher": "AES-256"}, "cipher='AES-256'"),
        ({"database": ":memory:", "encryption_key": "my secret"}, "':memory:'"),
        ({"encryption_key": "my secret", "temp_store": "FILE"}, "temp_store='FILE'"),
        ({"read_only_users": "alice"}, "read_only_users='alice'"),
        ({"write_users": [""]}, "write_users=''"),
        ({"admin_users": 5}, "admin_users=5"),
        ({"user": "alice"}, "user='alice'"),
        ({"user": "", "admin_users": ["alice"]}, "user=''"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sitq.ConfigurationError) as caught:
        sitq.SQLiteBackend(**options)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "give " in str(caught.value) or "open_backend" in str(caught.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="conection_pool_size"):
        sitq.SQLiteBackend(conection_pool_size=3)  # type: ignore[call-arg]  # the point of the test
