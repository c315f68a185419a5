"""Transactional tasks: what the function does with its session is committed with its completion, or not at all."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, NullPool, StaticPool, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import sitq
from databases import SERVERS
from dict_backend import DictBackend
from server_contract import emptied
from sitq import SQLAlchemyBackend, SQLiteBackend, TaskQueue, Worker, open_backend
from sitq import testing as sitq_testing
from working import LONG, at_work, gate, ran, reset, run, started, until, wait_started

INSERT = text("INSERT INTO effects (number) VALUES (:number)")
COUNT = text("SELECT count(*) FROM effects WHERE number = :number")


@pytest.fixture(params=["file", *SERVERS])
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, server_database: Callable[[str], URL]
) -> Iterator[SQLAlchemyBackend]:
    """The kinds of databases, with a table of the app's beside sitq's."""
    if request.param in SERVERS:
        # Without the name of a driver there is one for each door.
        made = open_backend(emptied(server_database(request.param)).set(drivername=request.param))
    else:
        made = SQLiteBackend(tmp_path / "tasks.db")
    reset()
    with made:
        make_effects(made.engine)
        yield made


def but_mariadb(test: Any) -> Any:
    """What is the same on both servers is tried on one of them."""
    return pytest.mark.parametrize("backend", ["file", "postgresql"], indirect=True)(test)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A SQLite file with the tables of both."""
    reset()
    with SQLiteBackend(tmp_path / "app.db") as made:
        make_effects(made.engine)
    return tmp_path / "app.db"


def make_effects(engine: Engine) -> None:
    with engine.begin() as connection:
        make_effects_on(connection)


def make_effects_on(connection: Connection) -> None:
    connection.execute(text("DROP TABLE IF EXISTS effects"))
    connection.execute(text("CREATE TABLE effects (number INTEGER NOT NULL)"))


def effects(backend: SQLAlchemyBackend, number: int = 1) -> int:
    with backend.engine.connect() as connection:
        return connection.execute(COUNT, {"number": number}).scalar_one()


@sitq.task(transactional=True)
def insert(number: int, *, session: Session = sitq.injected) -> int:
    assert isinstance(session, Session)
    session.execute(INSERT, {"number": number})
    return number * 10


@sitq.task(transactional=True)
async def insert_later(number: int, *, session: AsyncSession = sitq.injected) -> int:
    assert isinstance(session, AsyncSession)
    await session.execute(INSERT, {"number": number})
    return number * 10


BOTH = pytest.mark.parametrize("kind", [insert, insert_later])


@BOTH
def test_effects_result_and_completion_are_committed(backend: SQLAlchemyBackend, kind: Any) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            ids = await queue.enqueue_many(kind, [(number,) for number in range(8)])
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [n * 10 for n in range(8)]
            assert {(await queue.get_task(task_id)).status for task_id in ids} == {"completed"}
            assert [effects(backend, number) for number in range(8)] == [1] * 8

    run(scenario)


def end_with(session: Session, error: BaseException, attempts: int) -> str:
    session.execute(INSERT, {"number": 1})
    ran.append(error)
    if len(ran) < attempts:
        raise error
    return "done"


@sitq.task(transactional=True, max_retries=5, retry_delay=0)
def insert_and_raise(error: BaseException, attempts: int, session: Session = sitq.injected) -> str:
    return end_with(session, error, attempts)


@sitq.task(transactional=True, max_retries=5, retry_delay=0)
async def insert_and_raise_later(error: BaseException, attempts: int, session: AsyncSession = sitq.injected) -> str:
    return await session.run_sync(end_with, error, attempts)


@but_mariadb
@pytest.mark.parametrize("kind", [insert_and_raise, insert_and_raise_later])
def test_what_an_attempt_did_that_did_not_complete_is_gone(backend: SQLAlchemyBackend, kind: Any) -> None:
    async def scenario() -> None:
        async with at_work(backend, poll_interval=0.02) as queue:
            for number, error in enumerate((ValueError("on purpose"), sitq.Retry(delay=0), sitq.Snooze(0)), 1):
                ran.clear()
                assert await queue.result(await queue.enqueue(kind, error, 3), timeout=LONG) == "done"
                assert len(ran) == 3
                assert effects(backend) == number

    run(scenario)


@pytest.mark.parametrize("kind", [insert_and_raise, insert_and_raise_later])
def test_a_task_that_cancels_itself_or_fails_leaves_nothing(path: Path, kind: Any) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path)) as queue:
            cancelled = await queue.enqueue(kind, sitq.Cancel("enough"), 2)
            assert (await queue.get_result(cancelled, timeout=LONG)).error_message == "enough"
            ran.clear()
            failed = await queue.options(max_retries=1).enqueue(kind, ValueError("on purpose"), 9)
            assert (await queue.get_result(failed, timeout=LONG)).error_message == "on purpose"
            assert (await queue.get_task(failed)).retry_count == 1
            assert effects(queue.backend) == 0

    run(scenario)


# The claim's token decides.


@sitq.task(transactional=True)
def wait_and_insert(session: Session = sitq.injected) -> str:
    started.release()
    assert gate.wait(LONG)
    session.execute(INSERT, {"number": 1})
    return "first" if sitq.current_task().attempt == 1 else "later"


@sitq.task(transactional=True)
async def wait_and_insert_later(session: AsyncSession = sitq.injected) -> str:
    started.release()
    await asyncio.to_thread(gate.wait, LONG)
    await session.execute(INSERT, {"number": 1})
    return "done"


@pytest.mark.parametrize("kind", [wait_and_insert, wait_and_insert_later])
def test_a_claim_that_was_lost_commits_nothing(
    backend: SQLAlchemyBackend, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(kind)
            await wait_started(1)
            # As a reap would, if this worker had been away for longer than its lease.
            await backend.aupdate_task_status(task_id, "queued")
            await wait_started(1)
            gate.set()
            await queue.result(task_id, timeout=LONG)
            assert (await queue.get_task(task_id)).claim_count == 2
        assert effects(backend) == 1

    run(scenario)
    assert [getattr(record, "event", None) for record in caplog.records].count("outcome_dropped") == 1


@sitq.task(transactional=True)
def insert_and_wait(session: Session = sitq.injected) -> str:
    session.execute(INSERT, {"number": 1})
    started.release()
    assert gate.wait(LONG)
    return "done"


@sitq.task(transactional=True)
async def insert_and_wait_later(session: AsyncSession = sitq.injected) -> str:
    await session.execute(INSERT, {"number": 1})
    started.release()
    await asyncio.to_thread(gate.wait, LONG)
    return "done"


@pytest.mark.parametrize("kind", [insert_and_wait, insert_and_wait_later])
def test_nobody_reaps_a_task_that_holds_the_only_write_lock(path: Path, kind: Any) -> None:
    async def scenario() -> None:
        first, second, clock = SQLiteBackend(path), SQLiteBackend(path), sitq_testing.MovableClock()
        async with at_work(first) as queue, second:
            first.use_clock(clock)
            second.use_clock(clock)
            task_id = await queue.enqueue(kind)
            await wait_started(1)
            clock.move(3600)
            assert (await queue.get_task(task_id)).lease_until < clock()
            reaping = asyncio.create_task(second.areap())
            extending = asyncio.create_task(first.aextend([], 30.0))
            await asyncio.sleep(0.2)  # both wait for the lock by now, if the machine is not too busy
            assert not reaping.done()
            gate.set()
            assert await queue.result(task_id, timeout=LONG) == "done"
            assert await reaping == await extending == []
            task = await queue.get_task(task_id)
            assert (task.claim_count, task.crash_count) == (1, 0)
        assert effects(first) == 1

    run(scenario)


@sitq.task(transactional=True)
def read_then_write(session: Session = sitq.injected) -> int:
    found: int = session.execute(COUNT, {"number": 1}).scalar_one()
    started.release()
    assert gate.wait(LONG)
    session.execute(INSERT, {"number": 1})
    return found


@sitq.task(transactional=True)
async def read_then_write_later(session: AsyncSession = sitq.injected) -> int:
    found: int = (await session.execute(COUNT, {"number": 1})).scalar_one()
    started.release()
    await asyncio.to_thread(gate.wait, LONG)
    await session.execute(INSERT, {"number": 1})
    return found


@pytest.mark.parametrize("lends", [False, True])
@pytest.mark.parametrize("kind", [read_then_write, read_then_write_later])
def test_what_a_function_has_read_on_sqlite_is_not_outdated_when_it_writes(path: Path, kind: Any, lends: bool) -> None:
    async def scenario() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with at_work(SQLAlchemyBackend(engine) if lends else SQLiteBackend(path)) as queue:
            task_id = await queue.enqueue(kind)
            await wait_started(1)
            beside = asyncio.create_task(queue.enqueue(insert, 2))
            await asyncio.sleep(0.2)
            assert not beside.done()  # it waits until the function's transaction has ended
            gate.set()
            assert await queue.result(task_id, timeout=LONG) == 0
            assert await queue.result(await beside, timeout=LONG) == 20
        await engine.dispose()

    run(scenario)


# Time, cancellation and values.


@sitq.task(transactional=True, timeout=0.1)
async def insert_for_ever(session: AsyncSession = sitq.injected) -> None:
    await session.execute(INSERT, {"number": 1})
    started.release()
    await asyncio.sleep(LONG)


@sitq.task(transactional=True)
async def select_for_ever(session: AsyncSession = sitq.injected) -> None:
    await session.execute(INSERT, {"number": 1})
    started.release()
    while True:
        await session.execute(COUNT, {"number": 1})


@but_mariadb
def test_an_async_function_whose_time_is_over_is_rolled_back(backend: SQLAlchemyBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            result = await queue.get_result(await queue.enqueue(insert_for_ever), timeout=LONG)
            assert "did not end within 0.1 seconds" in result.error_message
            assert effects(backend) == 0
            assert await queue.result(await queue.enqueue(insert_later, 2), timeout=LONG) == 20

    run(scenario)


@but_mariadb
def test_an_async_function_is_cancelled_in_the_middle_of_a_statement(backend: SQLAlchemyBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(timeout=0.3).enqueue(select_for_ever)
            await wait_started(1)
            assert (await queue.get_result(task_id, timeout=LONG)).is_error
            assert effects(backend) == 0
            assert await queue.result(await queue.enqueue(insert_later, 2), timeout=LONG) == 20
            gc.collect()  # what the statement has read is let go of no sooner, and closing waits for it

    gc.disable()  # the statement that was broken off must not hold the lock until the collector comes by
    try:
        run(scenario)
    finally:
        gc.enable()


held = threading.Event()


@sitq.task(transactional=True)
def hold_the_lock(session: Session = sitq.injected) -> None:
    session.execute(INSERT, {"number": 1})
    held.set()
    assert gate.wait(LONG)


@sitq.task(transactional=True, timeout=0.4)
async def wait_for_the_lock(session: AsyncSession = sitq.injected) -> None:
    await asyncio.to_thread(held.wait, LONG)
    await session.execute(INSERT, {"number": 2})


def test_an_async_function_is_cancelled_while_it_waits_to_begin(path: Path) -> None:
    async def scenario() -> None:
        held.clear()
        async with at_work(SQLiteBackend(path)) as queue:
            await queue.pause("default")
            holder, waiting = await queue.enqueue(hold_the_lock), await queue.enqueue(wait_for_the_lock)
            await queue.resume("default")  # both are claimed at once: nothing can be, while the lock is held
            assert await asyncio.to_thread(held.wait, LONG)
            await asyncio.sleep(0.6)
            gate.set()
            assert await queue.result(holder, timeout=LONG) is None
            assert "did not end within 0.4 seconds" in (await queue.get_result(waiting, timeout=LONG)).error_message
            assert await queue.result(await queue.enqueue(insert_later, 3), timeout=LONG) == 30
        assert [effects(queue.backend, number) for number in (1, 2, 3)] == [1, 0, 1]

    run(scenario)


@but_mariadb
@pytest.mark.parametrize("kind", [insert_and_wait, insert_and_wait_later])
def test_a_worker_that_stops_at_once_gives_back_what_was_not_committed(backend: SQLAlchemyBackend, kind: Any) -> None:
    async def scenario() -> None:
        async with backend:
            worker, queue = Worker(backend, shutdown_timeout=0.1), TaskQueue(backend)
            await worker.start()
            task_id = await queue.enqueue(kind)
            await wait_started(1)
            stopping = asyncio.create_task(worker.stop())
            for _ in range(8):  # in steps, so that the worker takes its own however late they come
                await asyncio.sleep(0.05)
            gate.set()  # which a function in a thread has to end for, on SQLite
            await stopping
            assert (await queue.get_task(task_id)).status == "queued"
            assert effects(backend) == 0
            async with Worker(backend):
                assert await queue.result(task_id, timeout=LONG) == "done"
            assert effects(backend) == 1

    run(scenario)


@sitq.task(transactional=True, timeout=0.1)
def insert_too_late(session: Session = sitq.injected) -> str:
    assert gate.wait(LONG)
    session.execute(INSERT, {"number": 1})
    ran.append("ended")
    return "too late"


@but_mariadb
def test_a_function_in_a_thread_that_ends_after_its_time_is_rolled_back(backend: SQLAlchemyBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            result = await queue.get_result(await queue.enqueue(insert_too_late), timeout=LONG)
            assert "did not end within 0.1 seconds" in result.error_message
            gate.set()
            await until(lambda: ran == ["ended"])
        assert effects(backend) == 0

    run(scenario)


@sitq.task(transactional=True)
def return_what_cannot_be_stored(session: Session = sitq.injected) -> object:
    session.execute(INSERT, {"number": 1})
    return threading.Lock()


@sitq.task(transactional=True)
def return_an_awaitable(session: Session = sitq.injected) -> Awaitable[None]:
    session.execute(INSERT, {"number": 1})
    return asyncio.sleep(0)


@sitq.task(transactional=True)
def commit_it(session: Session = sitq.injected) -> None:
    session.execute(INSERT, {"number": 1})
    session.commit()


@sitq.task(transactional=True)
async def commit_it_later(session: AsyncSession = sitq.injected) -> None:
    await session.execute(INSERT, {"number": 1})
    await session.commit()


@sitq.task(transactional=True)
def commit_by_a_block(session: Session = sitq.injected) -> None:
    with session.begin():
        session.execute(INSERT, {"number": 1})


@sitq.task(transactional=True)
def commit_the_connection(session: Session = sitq.injected) -> None:
    session.execute(INSERT, {"number": 1})
    session.connection().commit()


@sitq.task(transactional=True)
async def commit_the_connection_later(session: AsyncSession = sitq.injected) -> None:
    await session.execute(INSERT, {"number": 1})
    await (await session.connection()).commit()


@sitq.task(transactional=True)
def close_it(session: Session = sitq.injected) -> None:
    with session:
        session.execute(INSERT, {"number": 1})


@sitq.task(transactional=True)
async def close_it_later(session: AsyncSession = sitq.injected) -> None:
    async with session:
        await session.execute(INSERT, {"number": 1})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (return_what_cannot_be_stored, "cannot be written"),
        (return_an_awaitable, "must be an async def"),
        (commit_it, "does not commit its session"),
        (commit_it_later, "does not commit its session"),
        (commit_by_a_block, "does not commit its session"),
        (commit_the_connection, "does not commit its session"),
        (commit_the_connection_later, "does not commit its session"),
        (close_it, "neither closes its session"),
        (close_it_later, "neither closes its session"),
    ],
)
def test_what_cannot_be_committed_fails(path: Path, function: Any, message: str) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path)) as queue:
            result = await queue.get_result(await queue.enqueue(function), timeout=LONG)
            assert message in result.error_message
            assert effects(queue.backend) == 0

    run(scenario)


@sitq.task(transactional=True)
def use_savepoints(session: Session = sitq.injected) -> None:
    session.execute(INSERT, {"number": 7})
    session.rollback()
    session.execute(INSERT, {"number": 1})
    with session.begin_nested():
        session.execute(INSERT, {"number": 2})
    with session.begin_nested() as savepoint:
        session.execute(INSERT, {"number": 3})
        savepoint.rollback()


@but_mariadb
def test_a_function_may_roll_back_and_use_savepoints(backend: SQLAlchemyBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            assert await queue.result(await queue.enqueue(use_savepoints), timeout=LONG) is None
            assert [effects(backend, number) for number in (1, 2, 3, 7)] == [1, 1, 0, 0]

    run(scenario)


class AppSession(Session):
    """As an app may have one."""


@sitq.task(transactional=True, max_retries=1, retry_delay=0)
def join_with_another_session(session: Session = sitq.injected) -> None:
    ran.append("once more")
    with AppSession(session.connection(), join_transaction_mode="create_savepoint") as own:
        own.execute(INSERT, {"number": 1})
        own.commit()
    if len(ran) == 1:
        raise ValueError("on purpose")


@but_mariadb
def test_a_session_of_the_apps_own_class_joins_the_transaction(backend: SQLAlchemyBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            assert await queue.result(await queue.enqueue(join_with_another_session), timeout=LONG) is None
            assert len(ran) == 2
            assert effects(backend) == 1

    run(scenario)


@sitq.task(transactional=True, max_retries=1, retry_delay=0, retry_on=IntegrityError)
def break_a_constraint(session: Session = sitq.injected) -> None:
    ran.append("once more")
    session.execute(INSERT, {"number": 1})
    session.execute(text("INSERT INTO child (parent) VALUES (:parent)"), {"parent": len(ran)})


def test_a_commit_that_the_database_refuses_is_a_failure(path: Path) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path)) as queue:
            with queue.backend.engine.begin() as connection:
                connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
                connection.execute(
                    text("CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
                )
                connection.execute(text("INSERT INTO parent VALUES (2)"))
            task_id = await queue.enqueue(break_a_constraint)
            assert await queue.result(task_id, timeout=LONG) is None
            assert (await queue.get_task(task_id)).retry_count == 1
            assert effects(queue.backend) == 1

    run(scenario)


@sitq.task(transactional=True)
def enqueue_beside(path: str, session: Session = sitq.injected) -> str:
    before = sitq.SyncTaskQueue(backends[path]).enqueue(len, "abc")
    session.execute(INSERT, {"number": 1})
    with pytest.raises(sitq.DatabaseLockedError, match="enqueue_in"):
        sitq.SyncTaskQueue(backends[path]).enqueue(len, "abc")
    return before


@sitq.task(transactional=True)
async def enqueue_beside_later(path: str, session: AsyncSession = sitq.injected) -> str:
    before = await TaskQueue(backends[path]).enqueue(len, "abc")
    await session.execute(INSERT, {"number": 1})
    with pytest.raises(sitq.DatabaseLockedError, match="enqueue_in"):
        await TaskQueue(backends[path]).enqueue(len, "abc")
    with pytest.raises(sitq.DatabaseLockedError, match="enqueue_in"):
        await asyncio.to_thread(sitq.SyncTaskQueue(backends[path]).enqueue, len, "abc")
    return before


backends: dict[str, SQLAlchemyBackend] = {}


@pytest.mark.parametrize("kind", [enqueue_beside, enqueue_beside_later])
def test_a_write_that_would_wait_for_its_own_task_is_refused_at_once(path: Path, kind: Any) -> None:
    async def scenario() -> None:
        backend = backends[str(path)] = SQLiteBackend(path)
        async with at_work(backend) as queue:
            before = await queue.result(await queue.enqueue(kind, str(path)), timeout=LONG)
            assert await queue.result(before, timeout=LONG) == 3
            assert len(await queue.list()) == 2

    run(scenario)


# How long it is open.


@sitq.task(transactional=True)
async def dawdle(begins: bool, session: AsyncSession = sitq.injected) -> None:
    if begins:
        await session.execute(INSERT, {"number": 1})
    started.release()
    await asyncio.to_thread(gate.wait, LONG)


def reports(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", None) == "transaction_open_long"]


def test_a_transaction_that_stays_open_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path), transaction_warning=0.05) as queue:
            task_id = await queue.enqueue(dawdle, True)
            await until(lambda: reports(caplog))
            gate.set()
            await queue.result(task_id, timeout=LONG)
            [record] = reports(caplog)
            assert record.levelno == logging.WARNING
            assert (record.task_id, record.task_name) == (task_id, "test_transactional.dawdle")  # type: ignore[attr-defined]
            assert record.seconds_open >= 0.05  # type: ignore[attr-defined]

    run(scenario)


def test_a_session_that_was_not_used_has_no_transaction(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path), transaction_warning=0.01) as queue:
            task_id = await queue.enqueue(dawdle, False)
            await wait_started(1)
            # It would have to wait for the write lock, if the task held that already.
            assert await queue.result(await queue.enqueue(insert, 3), timeout=LONG) == 30
            await asyncio.sleep(0.1)  # ten looks
            assert task_id not in {record.task_id for record in reports(caplog)}  # type: ignore[attr-defined]
            gate.set()
            assert await queue.result(task_id, timeout=LONG) is None

    run(scenario)


# The parameter.


def first(session: Session, a: int, b: int = 2) -> str:
    return f"{type(session).__name__} {a} {b}"


def middle(a: int, session: Session, b: int = 2) -> str:
    return first(session, a, b)


def last(a: int, b: int = 2, session: Session = sitq.injected) -> str:
    return first(session, a, b)


def keyword(a: int, b: int = 2, *, session: Session) -> str:
    return first(session, a, b)


def swallow(*args: int, **kwargs: Any) -> str:
    return first(kwargs.pop("session"), *args, **kwargs)


def many(session: Session, *args: int, b: int = 2) -> str:
    return first(session, *args, b=b)


class Shop:
    @sitq.task(transactional=True)
    def method(self, session: Session, a: int, b: int = 2) -> str:
        return first(session, a, b)


for function in (first, middle, last, keyword, swallow, many):
    sitq.task(transactional=True)(function)
SHAPES = (first, middle, last, keyword, swallow, many, Shop().method)


def test_the_session_is_put_where_the_function_takes_it(path: Path) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path)) as queue:
            ids = [await queue.enqueue(shape, 1) for shape in SHAPES]
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == ["Session 1 2"] * len(SHAPES)
            ids = [await queue.enqueue(shape, 1, b=3) for shape in SHAPES]  # type: ignore[call-arg]
            ids.append(await queue.enqueue(partial(middle, 1), b=3))
            ids.append(await queue.enqueue(middle, 1, 3))
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == ["Session 1 3"] * len(ids)

    run(scenario)


def no_session(a: int) -> None: ...


def session_by_position(session: Session, /, a: int) -> None: ...


@pytest.mark.parametrize("function", [no_session, session_by_position])
def test_a_function_without_the_parameter_is_refused_when_it_is_decorated(function: Any) -> None:
    with pytest.raises(sitq.InvalidArgumentError, match="needs a parameter called session"):
        sitq.task(transactional=True)(function)


def test_what_cannot_go_together_is_refused() -> None:
    with pytest.raises(sitq.ConfigurationError, match="cannot have executor="):
        sitq.task(transactional=True, executor="process")(keyword)
    with pytest.raises(sitq.ConfigurationError, match="transactional='yes' is not allowed: give True or False"):
        sitq.task(transactional="yes")  # type: ignore[call-overload]
    queue = sitq.SyncTaskQueue(SQLiteBackend(":memory:"))
    with pytest.raises(sitq.ConfigurationError, match="cannot have executor="):
        queue.options(executor="process").enqueue(insert, 1)
    with pytest.raises(sitq.ConfigurationError, match="belongs to the function"):
        queue.options(transactional=True)  # type: ignore[call-arg]
    with pytest.raises(sitq.ConfigurationError, match="transaction_warning=0"):
        Worker(queue.backend, transaction_warning=0)
    assert sitq.task(transactional=False)(no_session) is no_session


def test_a_caller_does_not_give_the_session() -> None:
    with SQLiteBackend(":memory:") as backend:
        queue = sitq.SyncTaskQueue(backend)
        with pytest.raises(sitq.InvalidArgumentError, match="leave out session="):
            queue.enqueue(insert, 1, session=None)  # type: ignore[arg-type]
        with pytest.raises(sitq.InvalidArgumentError, match="not by a partial"):
            queue.enqueue(partial(insert, session=None), 1)  # type: ignore[arg-type]
        with pytest.raises(sitq.InvalidArgumentError, match=r"do not fit test_transactional\.insert"):
            queue.enqueue(insert)
        with pytest.raises(sitq.InvalidArgumentError, match=r"do not fit test_transactional\.insert"):
            queue.enqueue(insert, 1, 2)
        assert queue.list() == []


def test_who_calls_the_function_gives_a_session_himself(path: Path) -> None:
    with SQLiteBackend(path) as backend, Session(backend.engine) as session:
        assert insert(5, session=session) == 50
        session.rollback()
    assert repr(sitq.injected) == "sitq.injected"
    with pytest.raises(sitq.InvalidArgumentError, match="a worker gives"):
        sitq.injected.execute("x")


# Where it can be had.


def test_a_backend_without_transactions_refuses_when_it_is_enqueued() -> None:
    queue = sitq.SyncTaskQueue(DictBackend())
    with pytest.raises(sitq.NotAvailableError, match="DictBackend has no transactions"):
        queue.enqueue(insert, 1)

    async def scenario() -> None:
        with pytest.raises(sitq.NotAvailableError, match="DictBackend has no transactions"):
            await TaskQueue(DictBackend()).enqueue(insert_later, 1)

    run(scenario)


def test_an_async_function_is_refused_where_there_is_a_sync_driver_only(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with SQLAlchemyBackend(engine) as backend:
        queue = sitq.SyncTaskQueue(backend)
        with pytest.raises(sitq.NotAvailableError, match="an async function needs an async driver"):
            queue.enqueue(insert_later, 1)
    engine.dispose()


def test_a_lent_engine_serves_sync_functions(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}", pool_size=2, max_overflow=0)

    async def scenario() -> None:
        async with at_work(SQLAlchemyBackend(engine), concurrency=4) as queue:
            ids = await queue.enqueue_many(insert, [(number,) for number in range(30)])
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [n * 10 for n in range(30)]
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM effects")).scalar_one() == 30
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 5000  # as the app had it

    run(scenario)
    engine.dispose()


@BOTH
def test_a_lent_async_engine_serves_both(path: Path, kind: Any) -> None:
    async def scenario() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with at_work(SQLAlchemyBackend(engine), concurrency=4) as queue:
            ids = await queue.enqueue_many(kind, [(number,) for number in range(10)])
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [n * 10 for n in range(10)]
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM effects"))).scalar_one() == 10
        await engine.dispose()

    run(scenario)


@BOTH
def test_a_server_is_reached_by_lent_engines_at_any_isolation_level(
    server_database: Callable[[str], URL], kind: Any
) -> None:
    url = emptied(server_database("postgresql"))
    reset()

    async def scenario() -> None:
        engine = create_async_engine(url, isolation_level="SERIALIZABLE")
        async with at_work(SQLAlchemyBackend(engine), lease=0.2) as queue:
            async with engine.begin() as connection:
                await connection.run_sync(make_effects_on)
            ids = await queue.enqueue_many(kind, [(number,) for number in range(10)])
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [n * 10 for n in range(10)]
            task_id = await queue.enqueue(dawdle, True)
            await wait_started(1)
            before = (await queue.get_task(task_id)).lease_until
            while (await queue.get_task(task_id)).lease_until == before:  # noqa: ASYNC110  # until the next heartbeat
                await asyncio.sleep(0.02)
            gate.set()
            assert await queue.result(task_id, timeout=LONG) is None
        async with engine.connect() as connection:
            assert (await connection.execute(COUNT, {"number": 1})).scalar_one() == 2
            assert (await connection.execute(text("SHOW transaction_isolation"))).scalar_one() == "serializable"
        await engine.dispose()

    run(scenario)


def test_a_url_with_an_async_driver_serves_both(server_database: Callable[[str], URL]) -> None:
    url = emptied(server_database("postgresql")).set(drivername="postgresql+asyncpg")

    async def scenario() -> None:
        async with at_work(SQLAlchemyBackend(url)) as queue:
            async with queue.backend.async_engine.begin() as connection:
                await connection.run_sync(make_effects_on)
            ids = [await queue.enqueue(kind, number) for kind in (insert, insert_later) for number in (1, 2)]
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [10, 20, 10, 20]
            async with queue.backend.async_engine.connect() as connection:
                assert (await connection.execute(COUNT, {"number": 1})).scalar_one() == 2

    run(scenario)


def test_an_engine_with_one_connection_for_all_says_so() -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with SQLAlchemyBackend(engine) as backend, pytest.raises(sitq.NotAvailableError, match="StaticPool has but one"):
        backend.transact(lambda _: None)
    engine.dispose()


@BOTH
def test_a_database_in_memory_will_do(kind: Any) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(":memory:")) as queue:
            make_effects(queue.backend.engine)
            ids = await queue.enqueue_many(kind, [(number,) for number in range(10)])
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [n * 10 for n in range(10)]
            assert effects(queue.backend) == 1

    run(scenario)


@sitq.task(transactional=True)
def look_and_report(session: Session = sitq.injected) -> tuple[str, int, bool, bool]:
    session.execute(INSERT, {"number": 1})
    task = sitq.current_task()
    task.progress(0.9, "nearly")
    return task.id, task.attempt, task.deadline is not None, task.cancelled


@sitq.task(transactional=True)
async def look_and_report_later(session: AsyncSession = sitq.injected) -> tuple[str, int, bool, bool]:
    return await session.run_sync(look_and_report)


@pytest.mark.parametrize("kind", [look_and_report, look_and_report_later])
def test_a_transactional_function_knows_its_task(path: Path, kind: Any) -> None:
    async def scenario() -> None:
        async with at_work(SQLiteBackend(path)) as queue:
            task_id = await queue.options(timeout=LONG).enqueue(kind)
            assert await queue.result(task_id, timeout=LONG) == (task_id, 1, True, False)
            task = await queue.get_task(task_id)
            assert (task.progress, task.progress_note) == (0.9, "nearly")

    run(scenario)


@sitq.task(transactional=True, max_retries=1, retry_delay=0)
def lose_the_connection(url: str, session: Session = sitq.injected) -> str:
    ran.append("once more")
    session.execute(INSERT, {"number": 1})
    if len(ran) == 1:
        mine = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with create_engine(url, poolclass=NullPool).connect() as other:
            assert other.execute(text("SELECT pg_terminate_backend(:mine)"), {"mine": mine}).scalar_one()
    return "done"


def test_a_connection_that_is_lost_before_the_commit_is_a_failure(server_database: Callable[[str], URL]) -> None:
    url = emptied(server_database("postgresql"))
    reset()

    async def scenario() -> None:
        async with at_work(open_backend(url)) as queue:
            make_effects(queue.backend.engine)
            task_id = await queue.enqueue(lose_the_connection, url.render_as_string(hide_password=False))
            assert await queue.result(task_id, timeout=LONG) == "done"
            assert (await queue.get_task(task_id)).retry_count == 1
            assert effects(queue.backend) == 1

    run(scenario)


# Tasks that a task enqueues.


@sitq.task(transactional=True, max_retries=1, retry_delay=0)
def enqueue_in_it(path: str, session: Session = sitq.injected) -> str:
    ran.append("once more")
    session.execute(INSERT, {"number": 1})
    follow_up = sitq.SyncTaskQueue(backends[path]).enqueue_in(session, len, "abc")
    if len(ran) == 1:
        raise ValueError("on purpose")
    return follow_up


@sitq.task(transactional=True, max_retries=1, retry_delay=0)
async def enqueue_in_it_later(path: str, session: AsyncSession = sitq.injected) -> str:
    ran.append("once more")
    await session.execute(INSERT, {"number": 1})
    queue = TaskQueue(backends[path])
    follow_up = await queue.options(unique_key="follow-up").aenqueue_in(session, len, "abc")
    if len(ran) == 1:
        raise ValueError("on purpose")
    return follow_up


@pytest.mark.parametrize("kind", [enqueue_in_it, enqueue_in_it_later])
def test_tasks_enqueued_with_the_session_are_committed_with_it(backend: SQLAlchemyBackend, kind: Any) -> None:
    async def scenario() -> None:
        backends["here"] = backend
        async with at_work(backend, poll_interval=0.05) as queue:
            follow_up = await queue.result(await queue.enqueue(kind, "here"), timeout=LONG)
            assert await queue.result(follow_up, timeout=LONG) == 3
            assert len(await queue.list()) == 2
            assert effects(backend) == 1

    run(scenario)


def test_a_bridged_session_takes_tasks_too(path: Path) -> None:
    async def scenario() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        backend = backends["here"] = SQLAlchemyBackend(engine)
        async with at_work(backend) as queue:
            follow_up = await queue.result(await queue.enqueue(enqueue_in_it, "here"), timeout=LONG)
            assert await queue.result(follow_up, timeout=LONG) == 3
        await engine.dispose()

    run(scenario)
