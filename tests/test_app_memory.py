"""A database in memory, whose one connection an app and the queue share, as an app's tests have it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

import sitq
from ordering import AppBase, Order, app_engine, confirm, count_orders
from sitq import SQLAlchemyBackend, SyncTaskQueue, TaskQueue
from working import LONG, at_work, run

IN_MEMORY: dict[str, Any] = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
ORDERS, LOOKS = 25, 8  # looks at an order while its task is claimed, run and finished


@pytest.fixture(params=[False, True], ids=["as it is", "configured"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with app_engine("sqlite://", **IN_MEMORY) as engine:
        if request.param:
            sitq.sqlite.configure(engine)
        yield engine


def when_tasks_are_written(engine: Engine, function: Callable[[], None]) -> None:
    """Call a function once, amid a transaction of sitq's that adds a task."""

    def listener(*execution: Any) -> None:
        if execution[2].startswith("INSERT INTO tasks") and not called:
            called.append(True)
            function()

    called: list[bool] = []
    event.listen(engine, "after_cursor_execute", listener)


def test_memory_is_the_same_only_by_the_engine() -> None:
    with app_engine("sqlite://", **IN_MEMORY) as engine, app_engine("sqlite://", **IN_MEMORY) as other:
        queue = SyncTaskQueue(SQLAlchemyBackend(engine))
        queue.backend.initialize()
        with Session(engine.execution_options(any_option=True)) as session:
            task_id = queue.enqueue_in(session, confirm, 1)
            session.commit()
        with Session(other) as session, pytest.raises(sitq.ConfigurationError, match="lend the engine"):
            queue.enqueue_in(session, confirm, 1)
        assert [task.id for task in queue.list()] == [task_id]
        queue.backend.close()


def test_the_apps_transaction_goes_on_after_what_the_queue_does_meanwhile(engine: Engine) -> None:
    with SQLAlchemyBackend(engine, connection_timeout=0.01) as backend, Session(engine) as session:
        queue = SyncTaskQueue(backend)
        session.add(Order(id=1))
        task_id = queue.enqueue_in(session, confirm, 1)
        session.flush()
        assert [task.id for task in queue.list()] == [task_id]  # a read on the one connection
        with pytest.raises(sitq.DatabaseLockedError, match="enqueue_in"):
            queue.enqueue(confirm, 2)
        session.commit()
        queue.enqueue(confirm, 3)
        session.rollback()
        assert session.get(Order, 1) is not None
        session.rollback()
        assert len(queue.list()) == 2


def test_closing_the_backend_ends_no_transaction_of_the_apps(engine: Engine) -> None:
    with Session(engine) as session:
        with SQLAlchemyBackend(engine) as backend:
            SyncTaskQueue(backend).enqueue(confirm, 1)
            session.add(Order(id=1))
            session.flush()
        session.commit()
    with Session(engine) as session:
        assert session.get(Order, 1) is not None


def test_a_read_of_the_queues_does_not_see_half_of_a_write(engine: Engine) -> None:
    def look() -> None:
        reading.append(other.submit(backend.list_all_tasks))
        wait(reading, timeout=0.1)  # It would have been through by then.

    reading: list[Future[list[str]]] = []
    when_tasks_are_written(engine, look)
    with SQLAlchemyBackend(engine) as backend, ThreadPoolExecutor(1) as other:
        queue = SyncTaskQueue(backend)
        ids = queue.enqueue_many(confirm, [(number,) for number in range(250)])  # in several statements
        assert sorted(reading[0].result(LONG)) == sorted(ids)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_apps_other_threads_wait_for_the_queues_transaction(engine: Engine, ending: str) -> None:
    def add_order() -> None:
        with Session(engine) as session:
            session.add(Order(id=1))
            session.flush()
            getattr(session, ending)()

    def begin() -> None:
        app.start()
        app.join(0.1)  # It would have been through by then, and ended the transaction for both.
        waited.append(app.is_alive())

    waited: list[bool] = []
    app = threading.Thread(target=add_order)
    when_tasks_are_written(engine, begin)
    with SQLAlchemyBackend(engine) as backend:
        queue = SyncTaskQueue(backend)
        task_id = queue.enqueue(confirm, 1)
        app.join(LONG)
        assert [task.id for task in queue.list()] == [task_id]
    with Session(engine) as session:
        assert (session.get(Order, 1) is not None) == (ending == "commit")
    assert waited == [True]


def test_a_listener_of_the_apps_may_look_at_the_database_amid_the_queues_transaction(engine: Engine) -> None:
    def look() -> None:
        with engine.connect() as connection:
            seen.append(driver_is_in_transaction(connection))

    seen: list[bool] = []
    when_tasks_are_written(engine, look)
    with SQLAlchemyBackend(engine) as backend:
        queue = SyncTaskQueue(backend)
        task_id = queue.enqueue(confirm, 1)
        assert [task.id for task in queue.list()] == [task_id]
    assert seen == [True]


@asynccontextmanager
async def an_async_queue() -> AsyncIterator[tuple[AsyncEngine, TaskQueue]]:
    """The engine of an async app, and a queue over it that has been used."""
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with SQLAlchemyBackend(engine) as backend:
        queue = TaskQueue(backend)
        assert await queue.list() == []
        yield engine, queue
    await engine.dispose()


def test_a_listener_of_an_async_app_may_look_too() -> None:
    async def scenario() -> None:
        def look() -> None:
            with engine.sync_engine.connect() as connection:
                seen.append(driver_is_in_transaction(connection))

        async with an_async_queue() as (engine, queue):
            when_tasks_are_written(engine.sync_engine, look)
            task_id = await queue.enqueue(confirm, 1)
            assert [task.id for task in await queue.list()] == [task_id]

    seen: list[bool] = []
    run(scenario)
    assert seen == [True]


def test_an_app_that_no_longer_waits_for_its_turn_leaves_the_database_as_it_is() -> None:
    async def scenario() -> None:
        async def look() -> None:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")

        def give_up() -> None:
            looking.append(asyncio.ensure_future(look()))
            await_only(asyncio.sleep(0.05))  # It is waiting by then.
            looking[0].cancel()

        async with an_async_queue() as (engine, queue):
            when_tasks_are_written(engine.sync_engine, give_up)
            task_id = await queue.enqueue(confirm, 1)
            assert [task.id for task in await queue.list()] == [task_id]
            await asyncio.wait(looking)
            await look()

    looking: list[asyncio.Future[None]] = []
    run(scenario)
    assert looking[0].cancelled()


@pytest.mark.parametrize("lost", ["interrupted", "closed"])
def test_the_app_goes_on_after_a_transaction_of_the_queues_that_lost_its_connection(tmp_path: Path, lost: str) -> None:
    with app_engine(f"sqlite:///{tmp_path / 'app.db'}", **IN_MEMORY) as engine:

        def lose() -> None:
            if lost == "closed":
                engine.dispose()
            else:
                raise KeyboardInterrupt

        when_tasks_are_written(engine, lose)
        with SQLAlchemyBackend(engine) as backend:
            queue = SyncTaskQueue(backend)
            with pytest.raises(KeyboardInterrupt if lost == "interrupted" else sitq.BackendError):
                queue.enqueue(confirm, 1)
            with ThreadPoolExecutor(1) as other:
                other.submit(add_order, engine, 1).result(LONG)
            add_order(engine, 2)
            task_id = queue.enqueue(confirm, 2)
            assert [task.id for task in queue.list()] == [task_id]
        assert count_orders(engine) == 2


def add_order(engine: Engine, number: int) -> None:
    with Session(engine) as session:
        session.add(Order(id=number))
        session.commit()


def test_an_engine_that_is_disposed_of_again_and_again_takes_turns_as_before(tmp_path: Path) -> None:
    with app_engine(f"sqlite:///{tmp_path / 'app.db'}", **IN_MEMORY) as engine:
        with SQLAlchemyBackend(engine) as backend:
            for _ in range(sys.getrecursionlimit()):
                engine.dispose()
                assert backend.list_all_tasks() == []
        add_order(engine, 1)
        assert count_orders(engine) == 1


def driver_is_in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.in_transaction)


def test_threads_of_an_app_and_a_worker_lose_nothing_to_each_other(engine: Engine) -> None:
    def place_orders(queue: SyncTaskQueue) -> None:
        for number in range(ORDERS):
            with Session(engine) as session:
                task_id = queue.enqueue_in(session, confirm, number)
                session.add(Order(id=number + 1, task_id=task_id))
                session.commit()
            for _ in range(LOOKS):
                with Session(engine) as session:
                    assert session.get(Order, number + 1) is not None
            assert queue.result(task_id, timeout=LONG) == number

    async def scenario() -> None:
        async with at_work(SQLAlchemyBackend(engine)) as queue:
            await asyncio.to_thread(place_orders, SyncTaskQueue(queue.backend))

    run(scenario)


@pytest.mark.parametrize("configured", [False, True], ids=["as it is", "configured"])
def test_an_async_app_and_a_worker_lose_nothing_to_each_other(configured: bool) -> None:
    async def place_orders(engine: AsyncEngine, queue: TaskQueue) -> None:
        for number in range(ORDERS):
            async with AsyncSession(engine) as session:
                task_id = queue.enqueue_in(session, confirm, number)
                session.add(Order(id=number + 1, task_id=task_id))
                await session.commit()
            for _ in range(LOOKS):
                async with AsyncSession(engine) as session:
                    assert await session.get(Order, number + 1) is not None
            assert await queue.result(task_id, timeout=LONG) == number

    async def scenario() -> None:
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        if configured:
            sitq.sqlite.configure(engine)
        async with engine.begin() as connection:
            await connection.run_sync(AppBase.metadata.create_all)
        async with at_work(SQLAlchemyBackend(engine)) as queue:
            await place_orders(engine, queue)
        await engine.dispose()

    run(scenario)


def test_an_async_static_pool_is_one_database_for_app_and_queue() -> None:
    async def scenario() -> None:
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        async with engine.begin() as connection:
            await connection.run_sync(AppBase.metadata.create_all)
        async with SQLAlchemyBackend(engine) as backend, AsyncSession(engine) as session:
            queue = TaskQueue(backend)
            session.add(Order(id=1))
            task_id = queue.enqueue_in(session, confirm, 1)
            await session.flush()
            assert [task.id for task in await queue.list()] == [task_id]
            other = asyncio.create_task(queue.enqueue(confirm, 2))  # waits for the app's transaction
            await asyncio.sleep(0)
            await session.commit()
            assert {task.id for task in await queue.list()} >= {task_id}
            await other
            assert len(await queue.list()) == 2
        await engine.dispose()

    run(scenario)


def test_a_memory_database_for_each_thread_is_refused() -> None:
    with pytest.raises(sitq.ConfigurationError, match="StaticPool"):
        SQLAlchemyBackend(create_engine("sqlite://"))
