"""Tasks that are committed together with an app's own rows, in the app's own transactions."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, insert, inspect, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import sitq
from databases import KINDS
from dict_backend import DictBackend
from ordering import Order, app_engine, async_engine_of, confirm, count_orders
from server_contract import emptied
from sitq import (
    AccessDeniedError,
    ConfigurationError,
    DuplicateTaskError,
    InvalidArgumentError,
    NotAvailableError,
    PostgreSQLBackend,
    ReadOnlyError,
    SchemaError,
    SQLAlchemyBackend,
    SQLiteBackend,
    SyncTaskQueue,
    Task,
    TaskQueue,
)
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
    with SQLAlchemyBackend(engine) as backend:
        yield backend


@pytest.fixture
def queue(backend: SQLAlchemyBackend) -> SyncTaskQueue:
    return SyncTaskQueue(backend)


class Waiter:
    """Waits for tasks of the default queue, of which this process must tell: nobody listens to others."""

    def __init__(self, queue: SyncTaskQueue | TaskQueue) -> None:
        queue.backend.wakeups.on_subscribe = None
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
        async with SQLAlchemyBackend(app) as backend:
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
        async with SQLAlchemyBackend(app) as backend, app.connect() as connection:
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


def test_without_a_transaction_a_task_is_committed_and_told_of_at_once(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        task_id = queue.enqueue_in(connection, confirm, 1)
        assert waiter.was_woken()
        assert [task.id for task in queue.list()] == [task_id]


def test_who_is_woken_finds_the_task(engine: Engine, queue: SyncTaskQueue) -> None:
    found: SimpleQueue[set[str]] = SimpleQueue()
    queue.backend.wakeups.on_notify = lambda topics: found.put({task.id for task in queue.list()})
    with Session(engine) as session, engine.connect() as connection:
        first = queue.enqueue_in(session, confirm, 1)
        session.commit()
        assert found.get(timeout=LONG) == {first}
        second = queue.enqueue_in(connection, confirm, 2)
        connection.commit()
        assert found.get(timeout=LONG) == {first, second}
        third = queue.enqueue_in(Session(connection), ship, 3)
        connection.commit()
        assert found.get(timeout=LONG) == {first, second, third}
    assert found.empty()


LISTENER = """
import sys
from sitq import SQLiteBackend
with SQLiteBackend(sys.argv[1]) as backend, backend.wakeups.subscribe(["queue:default"]) as waiter:
    assert waiter.wait(30)  # when it has begun to listen
    print("listening", flush=True)
    print(waiter.wait(30), len(backend.list_all_tasks()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="waiters in other processes poll there")
def test_on_sqlite_too_other_processes_are_told_after_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with app_engine(f"sqlite:///{path}") as engine, SQLAlchemyBackend(engine) as backend:
        command = [sys.executable, "-c", LISTENER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other, Session(engine) as session:
            assert other.stdout is not None
            assert other.stdout.readline() == "listening\n"
            SyncTaskQueue(backend).enqueue_in(session, confirm, 1)
            session.commit()
            assert other.stdout.read() == "True 1\n"


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


@sitq.task(unique_key=lambda order: f"order-{order}")
def ship(order: int) -> int:
    return order


def test_a_unique_key_is_asked_for_at_once_and_never_ends_the_transaction(engine: Engine, queue: SyncTaskQueue) -> None:
    waiter = Waiter(queue)
    held = queue.options(unique_key="held").enqueue(confirm, 0)
    waiter.was_woken()
    with Session(engine) as session:
        session.add(Order(id=1))
        assert queue.options(unique_key="held").enqueue_in(session, confirm, 1) == held
        with pytest.raises(DuplicateTaskError) as caught:
            queue.options(unique_key="held", on_conflict="raise").enqueue_in(session, confirm, 2)
        assert caught.value.task_id == held
        first = queue.enqueue_in(session, ship, 1)
        assert queue.enqueue_many_in(session, ship, [(1,), (2,), (1,)])[::2] == [first, first]
        assert queue.options(unique_key="held", on_conflict="replace").enqueue_in(session, ship, 9) == held
        assert not waiter.was_woken()
        session.commit()
        assert waiter.was_woken()
    assert count_orders(engine) == 1
    assert {task.unique_key for task in queue.list()} == {"held", "order-1", "order-2"}
    assert (queue.get_task(held).name or "").endswith("ship")


def test_a_unique_key_is_free_again_after_a_rollback(engine: Engine, queue: SyncTaskQueue) -> None:
    with Session(engine) as session, engine.connect() as connection:
        gone = queue.enqueue_in(session, ship, 1)
        session.rollback()
        task_id = queue.enqueue_in(connection, ship, 1)
        assert queue.enqueue_in(connection, ship, 1) == task_id != gone
        connection.commit()
    assert [task.id for task in queue.list()] == [task_id]


def test_a_key_that_was_taken_since_the_transaction_began_is_seen(engine: Engine, queue: SyncTaskQueue) -> None:
    with Session(engine) as session:
        session.scalars(select(Order)).all()
        held = queue.enqueue(ship, 1)
        assert queue.enqueue_in(session, ship, 1) == held
        session.commit()
    assert [task.id for task in queue.list()] == [held]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_who_asks_for_a_key_waits_for_the_transaction_that_has_it(
    engine: Engine, queue: SyncTaskQueue, outcome: str
) -> None:
    def ask() -> str:
        with Session(engine) as session:
            task_id = queue.enqueue_in(session, ship, 1)
            session.commit()
        return task_id

    with ThreadPoolExecutor() as threads, Session(engine) as session:
        first = queue.enqueue_in(session, ship, 1)
        asking = threads.submit(ask)
        with pytest.raises(TimeoutError):
            asking.result(timeout=0.05)
        session.commit() if outcome == "commits" else session.rollback()
        standing = asking.result(timeout=LONG)
    assert (standing == first) is (outcome == "commits")
    assert [task.id for task in queue.list()] == [standing]


def test_tables_in_a_schema_of_their_own_are_found(server_database: Callable[[str], URL]) -> None:
    schema = f"own_{uuid.uuid4().hex[:8]}"
    engine = create_engine(emptied(server_database("postgresql")))
    with (
        PostgreSQLBackend(engine, schema=schema) as backend,
        Session(engine) as session,
        engine.connect() as connection,
    ):
        queue = SyncTaskQueue(backend)
        ids = {queue.enqueue_in(session, confirm, 1), queue.enqueue_in(session, ship, 2)}
        session.commit()
        ids.add(queue.enqueue_in(connection, confirm, 3))
        connection.commit()
        assert {task.id for task in queue.list()} == ids
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    engine.dispose()


def test_an_async_session_is_asked_for_a_unique_key_with_await(url: URL) -> None:
    async def scenario() -> None:
        app = async_engine_of(url)
        async with SQLAlchemyBackend(app) as backend, AsyncSession(app) as session:
            queue = TaskQueue(backend)
            with pytest.raises(InvalidArgumentError, match=r"await queue\.aenqueue_in"):
                queue.enqueue_in(session, ship, 1)
            first = await queue.aenqueue_in(session, ship, 1)
            assert await queue.aenqueue_many_in(session, ship, [(1,), {"order": 1}]) == [first, first]
            also = await queue.options(priority=2).aenqueue_in(session, confirm, 1)
            await session.commit()
            assert {task.id for task in await queue.list()} == {first, also}
            with pytest.raises(InvalidArgumentError, match="enqueue_in"):
                await queue.aenqueue_in(Session(), ship, 1)  # type: ignore[arg-type]
        await app.dispose()

    run(scenario)


def test_of_many_calls_all_are_checked_before_one_is_added(engine: Engine, queue: SyncTaskQueue) -> None:
    with Session(engine) as session:
        with pytest.raises(InvalidArgumentError, match="row 1"):
            queue.enqueue_many_in(session, confirm, [(1,), (1, 2), (3,)])
        assert not session.new
        assert queue.enqueue_many_in(session, confirm, []) == []
        ids = queue.enqueue_many_in(session, confirm, ({"order": number} for number in range(300)))
        session.commit()
    assert [task.id for task in reversed(queue.list())] == ids


def test_the_tables_must_be_there_before_the_transaction(engine: Engine) -> None:
    queue = SyncTaskQueue(SQLAlchemyBackend(engine))
    for transaction in (Session(engine), engine.connect()):
        with transaction, pytest.raises(SchemaError, match=r"backend\.initialize\(\)"):
            queue.enqueue_in(transaction, confirm, 1)
    queue.backend.initialize()
    queue.backend.close()
    with Session(engine) as session:
        task_id = queue.enqueue_in(session, confirm, 1)  # the backend need not be open, and is not opened
        session.commit()
    with queue.backend:
        assert [task.id for task in queue.list()] == [task_id]


def test_another_database_is_refused_before_the_task_is_lost(
    engine: Engine, queue: SyncTaskQueue, tmp_path: Path
) -> None:
    elsewhere = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    for transaction in (Session(elsewhere), elsewhere.connect()):
        with transaction, pytest.raises(ConfigurationError, match=r"other\.db.*the queue's is"):
            queue.enqueue_in(transaction, confirm, 1)
    with pytest.raises(ConfigurationError, match="bound to no database"):
        queue.enqueue_in(Session(), confirm, 1)
    mapped = Session(elsewhere, binds={Task: engine})
    task_id = queue.enqueue_in(mapped, confirm, 1)
    keyed = queue.enqueue_in(mapped, ship, 1)
    mapped.commit()
    mapped.close()
    elsewhere.dispose()
    assert {task.id for task in queue.list()} == {task_id, keyed}


def test_the_same_database_by_another_engine_is_accepted(engine: Engine, queue: SyncTaskQueue, url: URL) -> None:
    if url.host is not None:
        url = url.set(host="localhost")
    with app_engine(url, pool_size=1) as other, Session(other.execution_options(logging_token="other")) as session:
        task_id = queue.enqueue_in(session, confirm, 1)
        session.commit()
    assert [task.id for task in queue.list()] == [task_id]


def test_messages_show_no_password(tmp_path: Path) -> None:
    elsewhere = create_engine("postgresql+psycopg://app:hush@db.example.com/app?sslpassword=hush")
    with SQLiteBackend(tmp_path / "tasks.db") as backend, pytest.raises(ConfigurationError) as caught:
        SyncTaskQueue(backend).enqueue_in(Session(elsewhere), confirm, 1)
    assert "hush" not in str(caught.value)
    assert "db.example.com" in str(caught.value)


def test_what_is_no_transaction_is_refused(engine: Engine, queue: SyncTaskQueue, url: URL) -> None:
    for wrong in (engine, sessionmaker(engine), Session, "session", None):
        with pytest.raises(InvalidArgumentError, match="enqueue_in takes the session or connection"):
            queue.enqueue_in(wrong, confirm, 1)  # type: ignore[arg-type]

    async def scenario() -> None:
        app = async_engine_of(url)
        async with app.connect() as connection:
            with pytest.raises(InvalidArgumentError, match="run_sync"):
                queue.enqueue_in(connection, confirm, 1)
        await app.dispose()

    run(scenario)


def test_a_backend_without_a_database_cannot_join_a_transaction() -> None:
    with pytest.raises(NotAvailableError, match="DictBackend"):
        SyncTaskQueue(DictBackend()).enqueue_in(Session(), confirm, 1)
    with pytest.raises(NotAvailableError, match="DictBackend"):
        asyncio.run(TaskQueue(DictBackend()).aenqueue_in(AsyncSession(), confirm, 1))


def test_access_is_asked_for(tmp_path: Path) -> None:
    with SQLiteBackend(tmp_path / "tasks.db") as backend:
        backend.initialize()
    reader = SQLiteBackend(tmp_path / "tasks.db", read_only_users=["ada"], user="ada")
    with reader, Session(reader.engine) as session, pytest.raises(AccessDeniedError, match="enqueue in"):
        SyncTaskQueue(reader).enqueue_in(session, confirm, 1)
    readonly = SQLiteBackend(tmp_path / "tasks.db", readonly=True)
    with readonly, Session(readonly.engine) as session, pytest.raises(ReadOnlyError):
        SyncTaskQueue(readonly).enqueue_in(session, confirm, 1)


def test_sessions_and_connections_leave_nothing_behind(engine: Engine, queue: SyncTaskQueue) -> None:
    with Session(engine) as session:  # the first use sets up what is for all
        queue.enqueue_in(session, confirm, 0)
        session.commit()
    listeners = count_listeners()
    ends: list[weakref.ref[Any]] = []
    for number in range(20):
        with Session(engine) as session, engine.connect() as connection:
            queue.enqueue_in(session, confirm, number)
            session.commit() if number % 2 else session.rollback()
            queue.enqueue_in(connection, confirm, number)
            connection.commit() if number % 2 else connection.rollback()
            ends += [weakref.ref(session), weakref.ref(connection)]
    del session, connection
    while any(thread.name == "sitq-waker" for thread in threading.enumerate()):
        time.sleep(0.001)
    gc.collect()
    assert [ref for ref in ends if ref() is not None] == []
    assert count_listeners() == listeners


def count_listeners() -> list[int]:
    return [len(list(getattr(Session().dispatch, name))) for name in ("after_flush", "after_commit")]


def test_one_session_can_carry_the_tasks_of_two_queues(engine: Engine, queue: SyncTaskQueue) -> None:
    with SQLAlchemyBackend(engine) as other:
        waiters = [Waiter(queue), Waiter(SyncTaskQueue(other))]
        with Session(engine) as session:
            queue.enqueue_in(session, confirm, 1)
            SyncTaskQueue(other).enqueue_in(session, confirm, 2)
            session.commit()
        assert [waiter.was_woken() for waiter in waiters] == [True, True]
    assert len(queue.list()) == 2


FORKING = """
import os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sitq import SQLAlchemyBackend, SyncTaskQueue

engine = create_engine(sys.argv[1])
queue = SyncTaskQueue(SQLAlchemyBackend(engine))
queue.backend.initialize()
queue.enqueue(print, "the parent's, by the queue's own connection")
child = os.fork()
if child == 0:
    engine.dispose(close=False)
with Session(engine) as session:
    queue.enqueue_in(session, print, "by the app's")
    session.commit()
queue.enqueue(print, "by the queue's own")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(queue.list()))
queue.backend.close()
engine.dispose()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_that_disposes_of_the_engine_goes_on_alone(engine: Engine, url: URL) -> None:
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")  # of forking with threads
    arguments = (sys.executable, *warnings, "-c", FORKING, url.render_as_string(hide_password=False))
    forking = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=LONG)
    assert forking.stderr == ""
    assert forking.stdout == "5\n"


def test_a_refused_flush_does_not_show_what_was_enqueued(engine: Engine) -> None:
    with SQLAlchemyBackend(engine) as backend:
        queue = SyncTaskQueue(backend)
        taken = queue.enqueue(confirm, 1)
        with Session(engine) as session:
            queue.options(queue="private").enqueue_in(session, confirm, 2)
            (task,) = session.new
            task.id = taken
            with pytest.raises(IntegrityError) as refused:
                session.flush()
        assert "private" not in str(refused.value)
        with Session(engine) as session, pytest.raises(IntegrityError, match="pear"):
            session.execute(insert(Order), [{"id": 1, "task_id": "pear"}] * 2)
