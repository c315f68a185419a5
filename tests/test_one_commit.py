"""Tasks that are committed together with an app's own rows, in the app's own transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, inspect, make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from databases import KINDS
from ordering import Order, app_engine, async_engine_of, confirm, count_orders
from server_contract import emptied
from sitq import PostgreSQLBackend, SQLAlchemyBackend, SyncTaskQueue, Task, TaskQueue
from sitq.wakeups import queue_topic
from working import LONG, at_work, note, run

OUTCOMES = ("commits", "rolls back")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, server_database: Callable[[str], URL]) -> URL:
    if request.param == "sqlite":
        return make_url(f"sqlite:///{tmp_path / 'app.db'}")
    return emptied(server_database(request.param))


@pytest.fixture
def engine(url: URL) -> Iterator[Engine]:
    with app_engine(url) as engine:
        yield engine


@pytest.fixture
def backend(engine: Engine) -> Iterator[SQLAlchemyBackend]:
    with lent(engine) as backend:
        yield backend


def lent(engine: Engine | AsyncEngine) -> SQLAlchemyBackend:
    """A backend whose waiters are woken by this process only."""
    return PostgreSQLBackend(engine, notify=False) if engine.dialect.name == "postgresql" else SQLAlchemyBackend(engine)


@pytest.fixture
def queue(backend: SQLAlchemyBackend) -> SyncTaskQueue:
    return SyncTaskQueue(backend)


class Waiter:
    """Waits for tasks of the default queue in this process."""

    def __init__(self, queue: SyncTaskQueue | TaskQueue) -> None:
        self.subscription = queue.backend.wakeups.subscribe([queue_topic("default")])

    def was_woken(self) -> bool:
        return self.subscription.wait(0)

    def wakes(self) -> bool:
        return self.subscription.wait(LONG)


def test_a_task_appears_with_the_commit_and_workers_are_woken_then(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    with Session(engine) as session:
        task_id = queue.enqueue_in(session, confirm, 7)
        session.add(Order(id=7, task_id=task_id))
        assert len(session.new) == 2  # nothing was asked of the database
        session.flush()
        assert queue.list() == []
        assert not waiter.was_woken()
        session.commit()
        assert waiter.was_woken()
    assert [task.id for task in queue.list()] == [task_id]
    assert count_orders(engine) == 1


def test_a_rollback_takes_order_and_task(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    with Session(engine) as session:
        for flushes in (True, False):
            session.add(Order(id=7))
            queue.enqueue_in(session, confirm, 7)
            if flushes:
                session.flush()
            session.rollback()
            session.commit()
    assert queue.list() == []
    assert count_orders(engine) == 0
    assert not waiter.was_woken()


def test_savepoints_decide_about_the_tasks_within(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    with Session(engine) as session:
        kept = queue.enqueue_in(session, confirm, 1)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            queue.enqueue_in(session, confirm, 1 // (session.flush() or 0))
        savepoint = session.begin_nested()
        queue.enqueue_in(session, confirm, 2)
        session.flush()
        savepoint.rollback()
        with session.begin_nested():
            also = queue.enqueue_in(session, confirm, 3)
        assert not waiter.was_woken()
        session.commit()
    assert waiter.was_woken()
    assert {task.id for task in queue.list()} == {kept, also}


def test_a_released_savepoint_is_gone_with_the_transaction(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    with Session(engine) as session:
        session.add(Order(id=1))
        session.flush()  # since without sitq.sqlite.configure, a savepoint begins no transaction
        with session.begin_nested():
            queue.enqueue_in(session, confirm, 1)
        session.rollback()
    assert queue.list() == []
    assert count_orders(engine) == 0
    assert not waiter.was_woken()


def test_a_session_in_a_transaction_of_its_connection_wakes_with_that_one(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            task_id = queue.enqueue_in(session, confirm, 1)
            session.commit()
            assert session.get(Task, task_id) is not None
            assert not waiter.was_woken()
        transaction.commit()
    assert waiter.wakes()
    assert [task.id for task in queue.list()] == [task_id]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_connection_inserts_at_once_and_wakes_after_its_commit(
    engine: Engine, queue: SyncTaskQueue, outcome: str
) -> None:
    waiter = Waiter(queue)
    with engine.connect() as connection:
        task_id = queue.enqueue_in(connection, confirm, 1)
        savepoint = connection.begin_nested()
        queue.enqueue_in(connection, confirm, 2)
        savepoint.rollback()
        with connection.begin_nested():
            others = queue.enqueue_many_in(connection, confirm, [(3,), {"order": 4}])
        assert not waiter.was_woken()
        if outcome == "commits":
            connection.commit()
    if outcome == "commits":
        assert waiter.wakes()
    assert {task.id for task in queue.list()} == ({task_id, *others} if outcome == "commits" else set())


def test_a_connection_that_goes_back_uncommitted_leaves_nothing_for_its_next_user(
    engine: Engine, queue: SyncTaskQueue
) -> None:
    waiter = Waiter(queue)
    with engine.connect() as connection:
        queue.enqueue_in(connection, confirm, 1)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert not waiter.was_woken()
    assert queue.list() == []


def test_a_scoped_session_is_as_good(engine: Engine, queue: SyncTaskQueue) -> None:
    session = scoped_session(sessionmaker(engine))
    task_id = queue.options(priority=3).enqueue_in(session, confirm, 1)
    session.commit()
    session.remove()
    assert [(task.id, task.priority) for task in queue.list()] == [(task_id, 3)]


def test_an_async_session_takes_tasks_without_await(engine: Engine, url: URL) -> None:
    async def scenario() -> None:
        app = async_engine_of(url)
        async with lent(app) as backend:
            queue, session_of = TaskQueue(backend), async_sessionmaker(app)
            waiter = Waiter(queue)
            async with session_of() as session:
                session.add(Order(id=1))
                first = queue.enqueue_in(session, confirm, 1)
                async with session.begin_nested() as savepoint:
                    queue.enqueue_in(session, confirm, 2)
                    await savepoint.rollback()
                assert not waiter.was_woken()
                await session.commit()
                assert waiter.was_woken()
                queue.enqueue_in(session, confirm, 3)
            scoped = async_scoped_session(session_of, scopefunc=asyncio.current_task)
            many = queue.enqueue_many_in(scoped, confirm, [(4,), (5,)])
            await scoped.commit()
            await scoped.remove()
            assert {task.id for task in await queue.list()} == {first, *many}
        await app.dispose()

    run(scenario)
    assert count_orders(engine) == 1


def test_an_async_connection_takes_tasks_in_run_sync(url: URL) -> None:
    async def scenario() -> None:
        app = async_engine_of(url)
        async with lent(app) as backend, app.connect() as connection:
            queue = TaskQueue(backend)
            waiter = Waiter(queue)
            first = await connection.run_sync(lambda sync: queue.enqueue_in(sync, confirm, 1))
            second = await queue.aenqueue_in(connection, confirm, 2)
            assert not waiter.was_woken()
            await connection.commit()
            assert await asyncio.to_thread(waiter.wakes)
            await queue.aenqueue_in(connection, confirm, 3)
            await connection.rollback()
            assert {task.id for task in await queue.list()} == {first, second}
        await app.dispose()

    run(scenario)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_postgresql_tells_other_processes_with_the_commit(server_database: Callable[[str], URL], driver: str) -> None:
    url = emptied(server_database("postgresql")).set(drivername=f"postgresql+{driver}")

    async def scenario() -> None:
        app = create_async_engine(url)
        async with SQLAlchemyBackend(app) as backend, SQLAlchemyBackend(url) as elsewhere:
            queue = TaskQueue(backend)
            waiters = {name: elsewhere.wakeups.subscribe([queue_topic(name)]) for name in ("taken back", "kept")}
            for waiter in waiters.values():  # all are woken when the connection that listens has begun to
                assert await asyncio.to_thread(waiter.wait, LONG)
            async with AsyncSession(app) as session:
                queue.options(queue="kept", delay=3600).enqueue_in(session, confirm, 1)
                async with session.begin_nested() as savepoint:
                    queue.options(queue="taken back").enqueue_in(session, confirm, 1)
                    await session.flush()
                    await savepoint.rollback()
                queue.options(queue="kept").enqueue_in(session, confirm, 1)
                await session.flush()
                assert not waiters["kept"].wait(0)
                await session.commit()
            assert await asyncio.to_thread(waiters["kept"].wait, LONG)
            assert not waiters["taken back"].wait(0)
        await app.dispose()

    run(scenario)


def test_a_worker_runs_what_was_committed(engine: Engine, backend: SQLAlchemyBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            with Session(engine) as session:
                task_id = queue.enqueue_in(session, note, "from a session")
                await asyncio.to_thread(session.commit)
            assert await queue.result(task_id, timeout=LONG) == "from a session"
            with engine.connect() as connection:
                task_id = await asyncio.to_thread(queue.enqueue_in, connection, note, "from a connection")
                await asyncio.to_thread(connection.commit)
            assert await queue.result(task_id, timeout=LONG) == "from a connection"

    run(scenario)


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"priority": 4, "queue": "mail", "max_retries": 3, "retry_delay": 9, "timeout": 2.5},
    {"eta": datetime(2999, 1, 1, tzinfo=UTC), "expires_in": timedelta(days=1)},
)


@pytest.mark.parametrize("options", OPTIONS, ids=["none", "many", "later"])
def test_every_way_leads_to_the_same_row(engine: Engine, queue: SyncTaskQueue, options: dict[str, Any]) -> None:
    with_options = queue.options(**options)
    ids = [with_options.enqueue(confirm, 1)]
    with Session(engine) as session:
        ids += [with_options.enqueue_in(session, confirm, 1), *with_options.enqueue_many_in(session, confirm, [(1,)])]
        session.commit()
    with engine.begin() as connection:
        ids.append(with_options.enqueue_in(connection, confirm, 1))
    one, *others = [columns_of(queue.get_task(task_id)) for task_id in ids]
    assert others == [one] * 3


def columns_of(task: Task) -> dict[str, Any]:
    names = [column.key for column in inspect(Task).column_attrs if column.key not in ("id", "created_at")]
    return {name: getattr(task, name) for name in names}
