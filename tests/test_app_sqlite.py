"""SQLite engines of an app: what sitq leaves as it is, what ``configure`` changes, and the trap it ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import sitq
from ordering import AppBase, Order, app_engine, confirm
from sitq import SQLAlchemyBackend, SQLiteBackend, SyncTaskQueue, TaskQueue
from working import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    with app_engine(f"sqlite:///{path}") as engine:
        yield engine


def can_write(path: Path) -> bool:
    """Whether the write lock is free."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def write_elsewhere(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("INSERT INTO orders (id) VALUES ((SELECT coalesce(max(id), 0) + 1 FROM orders))")


def begin_deferred(engine: Engine) -> None:
    """As SQLAlchemy's documentation tells apps to do for savepoints that work."""

    def connect(driver: Any, record: object) -> None:
        driver.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    engine.dispose()


def use_log(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")


@pytest.fixture
def trapped(engine: Engine, path: Path) -> Iterator[tuple[Session, SyncTaskQueue]]:
    """A session that has read, in a database that another has written since."""
    begin_deferred(engine)
    use_log(path)
    with SQLAlchemyBackend(engine) as backend, Session(engine) as session:
        session.scalars(select(Order)).all()
        write_elsewhere(path)
        yield session, SyncTaskQueue(backend)


def test_a_task_after_a_read_that_is_too_old_names_the_remedy(trapped: tuple[Session, SyncTaskQueue]) -> None:
    session, queue = trapped
    queue.enqueue_in(session, confirm, 1)
    with pytest.raises(sitq.DatabaseLockedError, match=r"sitq\.sqlite\.configure") as caught:
        session.commit()
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    session.rollback()
    queue.enqueue_in(session, confirm, 1)
    session.commit()
    assert len(queue.list()) == 1


def test_a_connection_and_a_unique_key_meet_the_same_error(trapped: tuple[Session, SyncTaskQueue]) -> None:
    session, queue = trapped
    for transaction in (session.connection(), session):
        with pytest.raises(sitq.DatabaseLockedError, match=r"sitq\.sqlite\.configure"):
            queue.options(unique_key="k").enqueue_in(transaction, confirm, 1)


def test_the_apps_own_statement_keeps_its_error_and_gets_a_note(trapped: tuple[Session, SyncTaskQueue]) -> None:
    session, queue = trapped
    queue.enqueue_in(session, confirm, 1)
    session.add(Order(id=9))
    with pytest.raises(OperationalError) as caught:
        session.commit()
    assert any("sitq.sqlite.configure" in note for note in caught.value.__notes__)


def test_a_task_that_waited_too_long_for_the_lock_is_an_error_of_sitqs(path: Path) -> None:
    with (
        app_engine(f"sqlite:///{path}", connect_args={"timeout": 0}) as engine,
        SQLAlchemyBackend(engine) as backend,
        Session(engine) as session,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        SyncTaskQueue(backend).enqueue_in(session, confirm, 1)
        with pytest.raises(sitq.DatabaseLockedError, match="is locked by another connection"):
            session.flush()


def test_an_async_session_meets_the_same_error(engine: Engine, path: Path) -> None:
    use_log(path)

    async def scenario() -> None:
        app = create_async_engine(f"sqlite+aiosqlite:///{path}")
        begin_deferred_only(app.sync_engine)
        async with SQLAlchemyBackend(app) as backend, AsyncSession(app) as session:
            await session.scalars(select(Order))
            write_elsewhere(path)
            TaskQueue(backend).enqueue_in(session, confirm, 1)
            with pytest.raises(sitq.DatabaseLockedError, match=r"sitq\.sqlite\.configure"):
                await session.commit()
        await app.dispose()

    def begin_deferred_only(engine: Engine) -> None:
        event.listen(engine, "connect", lambda driver, record: setattr(driver, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

    run(scenario)


def test_a_configured_engine_waits_for_its_turn_instead(engine: Engine, path: Path) -> None:
    assert sitq.sqlite.configure(engine) is engine
    with SQLAlchemyBackend(engine) as backend, Session(engine) as session:
        session.scalars(select(Order)).all()
        assert not can_write(path)
        queue = SyncTaskQueue(backend)
        with session.begin_nested():
            queue.enqueue_in(session, confirm, 1)
        session.rollback()
        assert can_write(path)
        assert queue.list() == []
        session.add(Order(id=1))
        task_id = queue.enqueue_in(session, confirm, 1)
        session.commit()
        assert [task.id for task in queue.list()] == [task_id]
        assert queue.enqueue(confirm, 2) != task_id  # by the queue's own connection


def test_what_only_reads_takes_no_lock_on_a_configured_engine(engine: Engine, path: Path) -> None:
    sitq.sqlite.configure(engine)
    reading = engine.execution_options(sitq_reads=True)
    with SQLAlchemyBackend(engine) as backend, Session(reading) as session:
        before = session.scalars(select(Order.id)).all()
        assert can_write(path)
        write_elsewhere(path)
        assert session.scalars(select(Order.id)).all() == before  # one moment, since the transaction began
        session.rollback()
        session.connection(execution_options={"sitq_reads": True})
        assert can_write(path)
        session.rollback()
        with engine.begin():  # the app writes
            assert SyncTaskQueue(backend).list() == []


def test_configuring_sets_the_log_and_the_timeout_on_every_connection(path: Path) -> None:
    engine = sitq.sqlite.configure(create_engine(f"sqlite:///{path}"), busy_timeout=timedelta(seconds=7))
    sitq.sqlite.configure(engine, busy_timeout=7)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 7000
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    with engine.begin():
        assert not can_write(path)
    engine.dispose()


def test_an_async_engine_is_configured_alike(path: Path) -> None:
    async def scenario() -> None:
        engine = sitq.sqlite.configure(create_async_engine(f"sqlite+aiosqlite:///{path}"))
        async with engine.begin() as connection:
            assert not can_write(path)
            await connection.run_sync(AppBase.metadata.create_all)
        async with AsyncSession(engine) as session, SQLAlchemyBackend(engine) as backend:
            await session.scalars(select(Order))
            assert not can_write(path)
            task_id = TaskQueue(backend).enqueue_in(session, confirm, 1)
            await session.commit()
            assert [task.id for task in await TaskQueue(backend).list()] == [task_id]
        await engine.dispose()

    run(scenario)


def test_configure_refuses_what_it_is_not_for() -> None:
    with pytest.raises(sitq.ConfigurationError, match="postgresql"):
        sitq.sqlite.configure(create_engine("postgresql+psycopg://nobody@127.0.0.1/nothing"))
    with pytest.raises(sitq.ConfigurationError, match="str"):
        sitq.sqlite.configure("sqlite:///app.db")  # type: ignore[type-var]
    with pytest.raises(sitq.ConfigurationError, match="busy_timeout"):
        sitq.sqlite.configure(create_engine("sqlite://"), busy_timeout=-1)


def test_only_the_queues_own_writes_take_the_lock_at_once(path: Path) -> None:
    begun: list[str] = []

    def trace(driver: Any, record: object) -> None:
        driver.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)

    with app_engine(f"sqlite:///{path}") as engine, SQLAlchemyBackend(engine) as backend:
        engine.dispose()
        event.listen(engine, "connect", trace)
        backend.initialize()
        begun.clear()
        SyncTaskQueue(backend).enqueue(confirm, 1)
        assert begun == ["BEGIN IMMEDIATE"]
        begun.clear()
        with Session(engine) as session:
            SyncTaskQueue(backend).enqueue_in(session, confirm, 1)
            session.commit()
        assert [begin.strip() for begin in begun] == ["BEGIN"]


def test_a_file_is_the_same_by_whatever_name(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(path)
    with SQLiteBackend(path) as backend:
        queue = SyncTaskQueue(backend)
        for url in (f"sqlite:///{tmp_path}/../{tmp_path.name}/link.db", f"sqlite:///file:{path}?mode=rw&uri=true"):
            engine = create_engine(url)
            with Session(engine) as session:
                queue.enqueue_in(session, confirm, 1)
                session.commit()
            engine.dispose()
        with Session(backend.engine) as session:
            queue.enqueue_in(session, confirm, 1)
            session.commit()
        assert len(queue.list()) == 3
