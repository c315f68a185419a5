"""The pytest plugin: what an app's own tests can say of its tasks, all of it undone when they end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from sqlalchemy import URL, Engine, String, create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import sitq
import sitq.sqlite
from databases import SERVERS
from dict_backend import DictBackend
from server_contract import emptied
from sitq import InvalidArgumentError, SitqError, SQLAlchemyBackend, SQLiteBackend, SyncTaskQueue, TaskQueue
from sitq.testing import AppTasks

pytest_plugins = ["pytester"]

outbox: list[Any] = []


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str] = mapped_column(String(20), default="new")


def confirm(order: int, urgent: bool = False, **more: Any) -> str:
    outbox.append(order)
    return f"{order} {urgent}"


async def confirm_later(order: int) -> str:
    await asyncio.sleep(0)
    outbox.append((order, sitq.current_task().attempt))
    return f"{order}"


def refund(order: int) -> None: ...


@sitq.task(max_retries=2, retry_delay=60, retry_jitter=0)
def fail_at_first(order: int) -> str:
    outbox.append(sitq.current_task().attempt)
    if sitq.current_task().attempt < 3:
        raise ValueError("on purpose")
    return "done"


@sitq.task(transactional=True)
def ship(order: int, fails: bool = False, *, session: Session = sitq.injected) -> None:
    session.get_one(Order, order).status = "shipped"
    sitq.current_task().progress(0.5, "on its way")
    session.flush()
    if fails:
        raise ValueError("on purpose")


@sitq.task(transactional=True)
async def ship_later(order: int, *, session: AsyncSession = sitq.injected) -> None:
    (await session.get_one(Order, order)).status = "shipped"


@sitq.task(transactional=True)
def commit_too(session: Session = sitq.injected) -> None:
    session.commit()


@pytest.fixture(autouse=True)
def empty_outbox() -> None:
    outbox.clear()


class App:
    """An app with a sync session, in a transaction that is rolled back."""

    def __init__(self, queue: SyncTaskQueue, session: Session, tasks: AppTasks) -> None:
        self.queue = queue
        self.session = session
        self.tasks = tasks


@contextmanager
def app_over(engine: Engine) -> Iterator[App]:
    Base.metadata.create_all(engine)
    with SQLAlchemyBackend(engine) as backend:
        queue = SyncTaskQueue(backend)
        earlier = queue.enqueue(refund, 0)  # which is nothing to the test
        backend.update_task_status(earlier, "cancelled")
        with engine.connect() as connection, connection.begin() as transaction:
            session = Session(connection, join_transaction_mode="create_savepoint")
            with session, AppTasks(queue, session) as tasks:
                yield App(queue, session, tasks)
            transaction.rollback()
        with Session(engine) as session:
            assert session.scalar(select(func.count()).select_from(Order)) == 0
        assert [task.id for task in queue.list()] == [earlier]
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with app_over(sitq.sqlite.configure(create_engine(f"sqlite:///{tmp_path / 'app.db'}"))) as made:
        yield made


def test_what_was_enqueued_can_be_asserted_and_refuted(app: App) -> None:
    app.queue.enqueue_in(app.session, confirm, 7, urgent=True)
    app.queue.options(queue="mail").enqueue(confirm, order=8)  # outside of any session, and undone all the same
    assert app.tasks.assert_enqueued(confirm).queue == "mail"
    assert app.tasks.assert_enqueued(confirm, 7, True).status == "queued"
    app.tasks.assert_enqueued(confirm, order=7, urgent=True)
    app.tasks.assert_enqueued(confirm, 8)
    app.tasks.assert_enqueued(confirm, ANY, urgent=True)
    app.tasks.assert_enqueued(confirm, matching=lambda order, urgent: order > 7)
    app.tasks.refute_enqueued(refund)
    app.tasks.refute_enqueued(confirm, 7)
    app.tasks.refute_enqueued(confirm, matching=lambda order, urgent: order > 8)
    assert [task.queue for task in app.tasks.enqueued()] == ["default", "mail"]
    with pytest.raises(AssertionError, match=r"refund was not enqueued so; in this test were enqueued:\n.*confirm"):
        app.tasks.assert_enqueued(refund)
    with pytest.raises(AssertionError, match=r"confirm was enqueued so; .*\n.*order=7, urgent=True\), queued"):
        app.tasks.refute_enqueued(confirm, 7, urgent=True)
    with pytest.raises(sitq.InvalidArgumentError, match="do not fit"):
        app.tasks.assert_enqueued(refund, 1, 2)


def test_nothing_enqueued_is_said_so(app: App) -> None:
    with pytest.raises(AssertionError, match="nothing was enqueued in this test"):
        app.tasks.assert_enqueued(confirm)
    assert app.tasks.drain() == []


def test_due_tasks_are_run_in_their_order(app: App) -> None:
    app.queue.enqueue_in(app.session, confirm, 1)
    app.queue.options(priority=5).enqueue_in(app.session, confirm, 2)
    app.queue.options(delay=60).enqueue_in(app.session, confirm, 3)
    app.queue.options(queue="mail").enqueue_in(app.session, confirm_later, 4)
    ran = app.tasks.drain()
    assert outbox == [2, 1, (4, 1)]
    assert [task.status for task in ran] == ["completed"] * 3
    assert app.queue.result(ran[0].id) == "2 False"
    app.tasks.assert_enqueued(confirm, 2)
    app.tasks.clock.move(60)
    assert len(app.tasks.drain()) == 1
    assert outbox[-1] == 3


def test_a_failure_is_raised_and_retried_when_it_is_due(app: App) -> None:
    task_id = app.queue.enqueue(fail_at_first, 1)
    with pytest.raises(ValueError, match="on purpose"):
        app.tasks.drain()
    assert app.queue.get_task(task_id).status == "queued"
    assert app.tasks.drain() == []
    app.tasks.clock.move(timedelta(seconds=61))
    [task] = app.tasks.drain(raise_errors=False)
    assert (task.status, task.retry_count) == ("queued", 2)
    app.tasks.clock.move(121)
    [task] = app.tasks.drain()
    assert (task.status, outbox) == ("completed", [1, 2, 3])


def test_the_clock_is_the_usual_one_until_it_is_asked_for(app: App) -> None:
    app.queue.options(eta=datetime.now(UTC)).enqueue(confirm, 1)
    assert len(app.tasks.drain()) == 1
    app.tasks.clock.move(3600)
    assert app.queue.backend.now() > datetime.now(UTC) + timedelta(minutes=59)
    app.tasks.__exit__(None, None, None)
    assert app.queue.backend.now() < datetime.now(UTC) + timedelta(minutes=1)


def test_a_transactional_task_is_a_savepoint_of_the_test(app: App) -> None:
    order = Order(id=7)
    app.session.add(order)
    app.queue.enqueue_in(app.session, ship, 7)
    [task] = app.tasks.drain()
    assert (task.status, task.progress) == ("completed", 0.5)
    assert order.status == "shipped"
    order.status = "new"
    failed = app.queue.enqueue(ship, 7, fails=True)
    with pytest.raises(ValueError, match="on purpose"):
        app.tasks.drain()
    assert app.queue.get_task(failed).status == "failed"
    assert order.status == "new"
    app.queue.enqueue(commit_too)
    with pytest.raises(sitq.TaskError, match="does not commit its session"):
        app.tasks.drain()


def test_an_async_transactional_task_needs_an_async_session() -> None:
    with SQLiteBackend(":memory:") as backend, backend.engine.connect() as connection:
        with AppTasks(backend, connection) as tasks:
            SyncTaskQueue(backend).enqueue(ship_later, 7)
            with pytest.raises(sitq.NotAvailableError, match="needs an AsyncSession"):
                tasks.drain()
        connection.rollback()


def test_what_the_app_commits_is_undone_too(app: App) -> None:
    app.session.add(Order(id=7))
    app.queue.enqueue_in(app.session, ship, 7)
    app.session.commit()
    app.tasks.drain()
    app.session.commit()
    assert app.session.get_one(Order, 7).status == "shipped"


def test_a_refused_write_leaves_the_transaction_usable(app: App) -> None:
    refuse_one_and_drain(app)


def test_a_copy_takes_what_only_the_test_has_enqueued(app: App) -> None:
    task_id = app.queue.enqueue(confirm, 1)
    with SQLiteBackend(":memory:") as target:
        sitq.copy(app.queue.backend, target)
        assert target.list_all_tasks()[1:] == [task_id]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_will_do(kind: str, server_database: Callable[[str], URL]) -> None:
    with app_over(create_engine(emptied(server_database(kind)))) as app:
        refuse_one_and_drain(app)
        app.session.add(order := Order(id=7))
        app.queue.enqueue(ship, 7)
        app.queue.enqueue(ship, 7, fails=True)
        assert app.queue.backend.get_stats().pending_tasks == 2
        assert [task.status for task in app.tasks.drain(raise_errors=False)] == ["completed", "failed"]
        assert order.status == "shipped"


def refuse_one_and_drain(app: App) -> None:
    app.queue.options(unique_key="k").enqueue(confirm, 1)
    with pytest.raises(sitq.DuplicateTaskError):
        app.queue.options(unique_key="k", on_conflict="raise").enqueue(confirm, 2)
    app.tasks.drain()
    assert outbox == [1]


def enqueue_another(order: int) -> None:
    queues[0].enqueue(confirm, order + 1)
    outbox.append(order)


@sitq.task(transactional=True)
async def order_more(order: int, session: AsyncSession = sitq.injected) -> None:
    queues[0].enqueue_in(session, confirm, order + 1)
    await queues[0].aenqueue_in(session, confirm_later, order + 2)
    outbox.append(order)


@sitq.task(transactional=True)
def order_more_and_fail(order: int, session: Session = sitq.injected) -> None:
    queues[0].enqueue_in(session, confirm, order + 1)
    raise ValueError("on purpose")


queues: list[Any] = []


def test_inline_mode_goes_on_after_an_inner_one(app: App) -> None:
    with app.tasks.inline():
        with app.tasks.inline():
            app.queue.enqueue(confirm, 1)
        app.queue.enqueue(confirm, 2)
        assert outbox == [1, 2]
    app.queue.enqueue(confirm, 3)
    assert outbox == [1, 2]


def test_inline_tasks_run_as_they_are_enqueued(app: App) -> None:
    queues[:] = [app.queue]
    with app.tasks.inline():
        task_id = app.queue.enqueue(confirm, 1)
        assert app.queue.result(task_id, timeout=0) == "1 False"
        app.queue.enqueue_in(app.session, confirm, 2)
        app.queue.enqueue(enqueue_another, 3)
        assert outbox == [1, 2, 4, 3]
        app.queue.options(delay=60).enqueue(confirm, 5)
        app.queue.enqueue_many(confirm, [(6,), (7,)])
        assert outbox == [1, 2, 4, 3, 6, 7]
        for function in (fail_at_first, order_more_and_fail):
            with pytest.raises(ValueError, match="on purpose"):
                app.queue.enqueue(function, 7)
        assert 8 not in outbox
    app.queue.enqueue(confirm, 9)
    assert 9 not in outbox


def test_tasks_that_enqueue_each_other_for_ever_are_noticed(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.testing.tasks.MOST_TASKS", 3)
    app.queue.enqueue_many(confirm, [(number,) for number in range(4)])
    with pytest.raises(AssertionError, match="more than 3 tasks ran"):
        app.tasks.drain()


def test_paused_queues_are_left_alone(app: App) -> None:
    app.queue.pause("default")
    app.queue.enqueue(confirm, 1)
    assert app.tasks.drain() == []
    app.queue.resume("default")
    assert len(app.tasks.drain()) == 1


# With an async session.


@pytest.mark.parametrize("kind", ["session", "connection"])
def test_an_app_with_an_async_session(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        engine = sitq.sqlite.configure(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with SQLAlchemyBackend(engine) as backend:
            queue = TaskQueue(backend)
            async with engine.connect() as connection, connection.begin() as transaction:
                async with AsyncSession(
                    connection, join_transaction_mode="create_savepoint", expire_on_commit=False
                ) as session:
                    with AppTasks(queue, session if kind == "session" else connection) as tasks:
                        await try_all(queue, session, connection, tasks)
                await transaction.rollback()
            assert await queue.list() == []
        await engine.dispose()

    asyncio.run(scenario())


async def try_all(queue: TaskQueue, session: AsyncSession, connection: AsyncConnection, tasks: AppTasks) -> None:
    session.add(order := Order(id=7))
    queue.enqueue_in(session, confirm, 7)
    await session.commit()
    await queue.enqueue(confirm_later, 8)
    await queue.enqueue(ship_later, 7)
    assert (await tasks.aassert_enqueued(confirm, order=7)).status == "queued"
    await tasks.arefute_enqueued(refund)
    assert len(await tasks.aenqueued(ship_later)) == 1
    with pytest.raises(AssertionError, match="was not enqueued so"):
        await tasks.aassert_enqueued(refund)
    with pytest.raises(sitq.InvalidArgumentError, match="are to be awaited"):
        tasks.assert_enqueued(confirm)
    assert [task.status for task in await tasks.adrain()] == ["completed"] * 3
    assert outbox == [7, (8, 1)]
    await session.refresh(order)
    assert order.status == "shipped"
    order.status = "new"
    await session.commit()
    await queue.enqueue(ship, 7)  # a sync function, over the async session's connection
    await tasks.adrain()
    await session.refresh(order)
    assert order.status == "shipped"
    await queue.enqueue(fail_at_first, 1)
    with pytest.raises(ValueError, match="on purpose"):
        await tasks.adrain()
    tasks.clock.move(61)
    assert len(await tasks.adrain(raise_errors=False)) == 1
    with tasks.inline():
        await queue.enqueue(confirm_later, 9)
        assert outbox[-1] == (9, 1)
        await queue.aenqueue_in(session, confirm, 10)
        assert outbox[-1] == 10
        queue.enqueue_in(session, confirm, 11)  # which nobody can flush without awaiting it
        assert outbox[-1] == 10
        await session.commit()
        queues[:] = [queue]
        await queue.enqueue(order_more, 12)
        assert outbox[-4:] == [11, 12, 13, (14, 1)]


# Without a transaction, and what cannot be.


def test_without_a_session_the_backend_is_used_as_it_is() -> None:
    with SQLiteBackend(":memory:") as backend, AppTasks(SyncTaskQueue(backend)) as tasks:
        with backend.engine.begin() as connection:
            Base.metadata.create_all(connection)
        with Session(backend.engine) as session:
            session.add(Order(id=7))
            session.commit()
        SyncTaskQueue(backend).enqueue(ship, 7)
        SyncTaskQueue(backend).enqueue(ship_later, 7)
        assert [task.status for task in tasks.drain()] == ["completed"] * 2
    with AppTasks(DictBackend()) as tasks:
        SyncTaskQueue(tasks.backend).enqueue(confirm, 7)
        tasks.assert_enqueued(confirm, 7)
        tasks.drain()
        assert outbox == [7]


def test_drain_takes_a_session_of_its_own(app: App) -> None:
    app.queue.enqueue_in(app.session, confirm, 7)
    with AppTasks(app.queue.backend) as tasks:
        assert [task.status for task in tasks.drain(app.session)] == ["completed"]
    app.queue.enqueue(confirm, 8)
    assert [task.status for task in app.tasks.drain(app.session)] == ["completed"]
    assert outbox == [7, 8]


def test_what_is_no_transaction_is_refused() -> None:
    with pytest.raises(sitq.ConfigurationError, match="DictBackend keeps its tasks in no database"):
        AppTasks(DictBackend(), Session()).__enter__()
    with SQLiteBackend(":memory:") as backend, pytest.raises(sitq.InvalidArgumentError, match="not int"):
        AppTasks(backend, 5).__enter__()  # type: ignore[arg-type]


def test_an_async_function_is_not_drained_inside_a_running_loop(app: App) -> None:
    app.queue.enqueue(confirm_later, 1)

    async def scenario() -> None:
        with pytest.raises(sitq.InvalidArgumentError, match="await adrain"):
            app.tasks.drain()

    asyncio.run(scenario())


# As a plugin.

SHOP = """
from sqlalchemy import create_engine
import sitq, sitq.sqlite

engine = sitq.sqlite.configure(create_engine("sqlite:///shop.db"))
queue = sitq.SyncTaskQueue(sitq.SQLAlchemyBackend(engine))
sent = []

def send(user): sent.append(user)

def sign_up(session, user): queue.enqueue_in(session, send, user)
"""

CONFTEST = """
import pytest, shop
from sqlalchemy.orm import Session

@pytest.fixture(scope="session", autouse=True)
def tables():
    with shop.queue.backend:
        yield
    shop.engine.dispose()

@pytest.fixture
def session():
    with shop.engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()

@pytest.fixture
def sitq_queue():
    return shop.queue

@pytest.fixture
def sitq_session(session):
    return session
"""

TESTS = """
import shop

def test_drain(session, sitq_testing):
    shop.sign_up(session, "ada")
    session.commit()
    sitq_testing.assert_enqueued(shop.send, "ada")
    sitq_testing.drain()
    assert shop.sent == ["ada"]

def test_nothing_is_left_of_it(session, sitq_testing):
    assert shop.queue.list() == []
    sitq_testing.refute_enqueued(shop.send)

def test_without_the_fixture_the_queue_is_untouched():
    assert shop.queue.list() == []

def test_a_failure_tells_what_there_was(session, sitq_testing):
    shop.sign_up(session, "ada")
    sitq_testing.assert_enqueued(shop.send, "bob")
"""


DEFAULT_TESTS = """
import sitq

def double(x): return 2 * x

def test_it(sitq_queue, sitq_testing):
    queue = sitq.SyncTaskQueue(sitq_queue.backend)
    task_id = queue.options(delay=60).enqueue(double, 2)
    assert sitq_testing.drain() == []
    sitq_testing.clock.move(60)
    sitq_testing.drain()
    assert queue.result(task_id) == 4
"""


def test_the_fixtures_follow_the_apps_own_and_have_a_default(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(shop=SHOP)
    for name, source in {"app/conftest": CONFTEST, "app/test_shop": TESTS, "alone/test_alone": DEFAULT_TESTS}.items():
        path = pytester.path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    pytester.syspathinsert()
    # Whether or not the entry point is installed here.
    result = pytester.runpytest_subprocess("-p", "no:sitq", "-p", "pytest_sitq", "-W", "error")
    result.assert_outcomes(passed=4, failed=1)
    said = ["*AssertionError: shop.send was not enqueued so; in this test were enqueued:*", "*user='ada'*"]
    result.stdout.fnmatch_lines(said)


def test_the_plugin_imports_nothing_of_sitq_before_it_is_used() -> None:
    check = "import sys, pytest_sitq; assert not {'sitq', 'sqlalchemy'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"sitq": "pytest_sitq"}


def test_tables_that_are_not_there_give_an_error_of_sitqs_own(app: App) -> None:
    elsewhere = create_engine("sqlite://")
    with elsewhere.connect() as connection, AppTasks(app.queue, connection):
        with pytest.raises(SitqError) as missing:
            app.queue.enqueue(confirm, 1)
        assert "tasks" in str(missing.value)
        assert "INSERT" not in str(missing.value)
    elsewhere.dispose()


def test_only_a_queue_or_a_backend_is_tested() -> None:
    with pytest.raises(InvalidArgumentError, match="a TaskQueue, a SyncTaskQueue or a backend, not of a value of type"):
        AppTasks("queue")  # type: ignore[arg-type]
