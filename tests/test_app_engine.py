"""An engine that an app lends: how many connections sitq takes of it, and that it is the app's all along."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from databases import KINDS
from ordering import Order, app_engine, async_engine_of, confirm, count_orders
from server_contract import emptied
from sitq import SQLAlchemyBackend, SyncTaskQueue, TaskQueue
from working import LONG, at_work, gate, reset, run, wait_at_gate, wait_started

SMALL: dict[str, Any] = {"pool_size": 2, "max_overflow": 0, "pool_timeout": LONG}
HANDLERS, ORDERS = 4, 8  # of the app at once, and of each of them
OWN = {"sqlite": 1, "postgresql": 2, "mariadb": 1}
"""Connections of sitq's own, beside the app's pool: one that writes, and on PostgreSQL one that listens."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, server_database: Callable[[str], URL]) -> URL:
    if request.param == "sqlite":
        return make_url(f"sqlite:///{tmp_path / 'app.db'}")
    return emptied(server_database(request.param))


@pytest.fixture
def engine(url: URL) -> Iterator[Engine]:
    with app_engine(url, **SMALL) as engine:
        yield engine


class Meter:
    """How many connections were open at once, in an engine's pool and out of it."""

    def __init__(self, engine: Engine) -> None:
        self.lock = threading.Lock()
        self.open = self.most = 0
        event.listen(engine, "connect", lambda *_: self.count(1))
        for ending in ("close", "close_detached"):
            event.listen(engine, ending, lambda *_: self.count(-1))

    def count(self, change: int) -> None:
        with self.lock:
            self.open += change
            self.most = max(self.most, self.open)


def test_a_small_pool_serves_threads_of_the_app_and_the_queue(engine: Engine) -> None:
    engine.dispose()
    meter = Meter(engine)

    def handle(queue: SyncTaskQueue, handler: int) -> list[Any]:
        answers = []
        for number in range(handler * ORDERS, (handler + 1) * ORDERS):
            with Session(engine) as session:
                task_id = queue.enqueue_in(session, confirm, number)
                session.add(Order(id=number + 1, task_id=task_id))
                session.commit()
            answers.append(queue.result(task_id, timeout=LONG))
        return answers

    async def scenario() -> None:
        async with at_work(SQLAlchemyBackend(engine), concurrency=8) as queue:
            with ThreadPoolExecutor(HANDLERS) as threads:
                loop, sync = asyncio.get_running_loop(), SyncTaskQueue(queue.backend)
                handled = (loop.run_in_executor(threads, handle, sync, handler) for handler in range(HANDLERS))
                assert list(chain(*await asyncio.gather(*handled))) == list(range(HANDLERS * ORDERS))

    run(scenario)
    assert count_orders(engine) == HANDLERS * ORDERS
    assert meter.most <= SMALL["pool_size"] + OWN[engine.dialect.name]


def test_a_small_pool_serves_handlers_on_a_loop_and_the_queue(engine: Engine, url: URL) -> None:
    app = async_engine_of(url, **SMALL)
    meter = Meter(app.sync_engine)

    async def handle(queue: TaskQueue, handler: int) -> list[Any]:
        task_ids = []
        for number in range(handler * ORDERS, (handler + 1) * ORDERS):
            async with AsyncSession(app) as session:
                task_ids.append(queue.enqueue_in(session, confirm, number))
                session.add(Order(id=number + 1, task_id=task_ids[-1]))
                await session.commit()
        return [await queue.result(task_id, timeout=LONG) for task_id in task_ids]

    async def scenario() -> None:
        async with at_work(SQLAlchemyBackend(app), concurrency=8) as queue:
            answers = await asyncio.gather(*(handle(queue, handler) for handler in range(HANDLERS)))
            assert list(chain(*answers)) == list(range(HANDLERS * ORDERS))
        await app.dispose()

    run(scenario)
    assert count_orders(engine) == HANDLERS * ORDERS
    reading = 1  # of the worker's watch, whose thread cannot use a connection of the app's loop
    assert meter.most <= SMALL["pool_size"] + OWN[engine.dialect.name] + reading


def test_no_connection_is_held_while_user_code_runs(engine: Engine) -> None:
    async def scenario() -> None:
        async with at_work(SQLAlchemyBackend(engine), concurrency=4) as queue:
            task_ids = await queue.enqueue_many(wait_at_gate, [(number,) for number in range(4)])
            await wait_started(4)
            with engine.connect() as one, engine.connect() as other:  # all that the app has
                for connection in (one, other):
                    connection.exec_driver_sql("SELECT 1")
            gate.set()
            assert [await queue.result(task_id, timeout=LONG) for task_id in task_ids] == [0, 1, 2, 3]

    run(scenario)


def test_closing_the_backend_leaves_the_apps_connections_alone(engine: Engine) -> None:
    pool = engine.pool
    with engine.connect() as in_use, SQLAlchemyBackend(engine) as backend:
        SyncTaskQueue(backend).enqueue(confirm, 1)
        idle = engine.connect()
        kept = idle.connection.dbapi_connection
        idle.close()
        backend.close()
        in_use.exec_driver_sql("SELECT 1")
        with engine.connect() as again:
            assert again.connection.dbapi_connection is kept
    assert engine.pool is pool
