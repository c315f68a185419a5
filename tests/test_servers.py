"""Backends on servers: how they are named, opened, woken, and how they outlive lost connections."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, NullPool, create_engine, text

import sitq
from databases import empty_database
from listeners import listening
from sitq.claims import Claim, ClaimRequest, Outcome
from sitq.ids import new_id
from sitq.wakeups import RESULTS, queue_topic

SERVERS = ("postgresql", "mariadb")
IN_TIME = 20.0


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[URL]:
    with empty_database("postgresql", tmp_path) as url:
        yield url


def row(**columns: Any) -> dict[str, Any]:
    return {
        "id": new_id(),
        "function": b"f",
        "name": "f",
        "queue": "default",
        "priority": 0,
        "max_retries": 0,
        "created_at": datetime.now(UTC),
        **columns,
    }


def kill_connections(url: URL) -> None:
    """Let the server end every other connection to the database."""
    with connect(url) as connection:
        if url.get_backend_name() == "postgresql":
            own = "pid <> pg_backend_pid() AND datname = current_database()"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own}")
            return
        own = "id <> connection_id() AND db = database()"
        ids = connection.exec_driver_sql(f"SELECT id FROM information_schema.processlist WHERE {own}")
        for (connection_id,) in ids.all():
            connection.exec_driver_sql(f"KILL {connection_id}")


@contextmanager
def connect(url: URL) -> Iterator[Any]:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + IN_TIME
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


def test_a_look_leaves_the_engine_transactional(url: URL) -> None:
    with sitq.SQLAlchemyBackend(url, connection_pool_size=1, max_overflow=0) as backend:
        [task_id] = backend.enqueue([row()])
        assert backend.get_task(task_id).id == task_id
        with backend.engine.connect() as connection:
            connection.exec_driver_sql("DELETE FROM tasks")
            connection.rollback()
        assert backend.get_statuses([task_id]) == {task_id: sitq.TaskStatus.QUEUED}


# Lost connections.


def test_verbs_go_on_when_every_connection_was_killed(url: URL) -> None:
    with sitq.SQLAlchemyBackend(url) as backend:
        first = backend.enqueue([row()])
        assert backend.list_all_tasks() == first
        kill_connections(url)
        assert backend.list_all_tasks() == first
        kill_connections(url)
        second = backend.enqueue([row()])
        kill_connections(url)
        claims = backend.claim(ClaimRequest("w", ["default"], 10, 60.0))
        assert [claim.id for claim in claims] == first + second


def test_async_verbs_go_on_when_every_connection_was_killed(url: URL) -> None:
    async def use() -> None:
        async with sitq.SQLAlchemyBackend(url) as backend:
            first = await backend.aenqueue([row()])
            assert await backend.alist_all_tasks() == first
            kill_connections(url)
            assert await backend.alist_all_tasks() == first
            kill_connections(url)
            assert len(await backend.aenqueue([row()])) == 1

    asyncio.run(use())


def test_a_round_keeps_its_claims_when_the_look_at_its_endings_finds_the_connection_killed(postgresql: URL) -> None:
    looks: list[str] = []

    def kill(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and not looks:
            looks.append(statement)
            kill_connections(postgresql)

    with sitq.SQLAlchemyBackend(postgresql) as backend:
        ids = backend.enqueue([row() for _ in range(4)])
        request = ClaimRequest("w", ["default"], 2, 60.0)
        outcomes = [outcome(claim) for claim in backend.claim(request)]
        assert backend.finish([outcomes[0]._replace(status=sitq.TaskStatus.CANCELLED)]) == [True]
        with listening(backend.engine, "before_cursor_execute", kill):
            held, claims = asyncio.run(backend.afinish_and_claim(outcomes, request))
        assert len(looks) == 1
        assert held == [False, True]
        assert [claim.id for claim in claims] == ids[2:]


def test_asyncpg_goes_on_when_every_connection_was_killed(postgresql: URL) -> None:
    pytest.importorskip("asyncpg")

    async def use() -> None:
        async with sitq.SQLAlchemyBackend(postgresql.set(drivername="postgresql+asyncpg")) as backend:
            first = await backend.aenqueue([row()])
            assert await backend.alist_all_tasks() == first
            kill_connections(postgresql)
            assert await backend.alist_all_tasks() == first
            kill_connections(postgresql)
            assert len(await backend.aenqueue([row()])) == 1

    asyncio.run(use())


def test_a_server_that_is_away_is_said_to_be() -> None:
    for drivername in ("postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "mariadb+asyncmy"):
        url = URL.create(drivername, "someone", "sesame", "127.0.0.1", 1, "nowhere")
        pytest.importorskip(url.get_driver_name())
        backend = sitq.SQLAlchemyBackend(url)
        with pytest.raises(sitq.DatabaseUnavailableError) as raised:
            backend.list_all_tasks()
        assert "127.0.0.1:1/nowhere" in str(raised.value)
        assert "sesame" not in f"{raised.value}{raised.value.__cause__}{backend!r}"
        backend.close()


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "mariadb", "mariadb+asyncmy"])
def test_every_event_loop_may_use_it(driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip(driver.partition("+")[2] or "pymysql")
    with opened(driver, tmp_path) as backend:
        for expected in range(1, 4):
            asyncio.run(backend.aenqueue([row()]))
            assert len(asyncio.run(backend.alist_all_tasks())) == expected
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@contextmanager
def opened(driver: str, folder: Path) -> Iterator[sitq.SQLAlchemyBackend]:
    with (
        empty_database(driver.partition("+")[0], folder) as url,
        sitq.SQLAlchemyBackend(url.set(drivername=driver)) as backend,
    ):
        yield backend


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "mariadb"])
def test_a_forked_child_opens_connections_of_its_own(driver: str, tmp_path: Path) -> None:
    with opened(driver, tmp_path) as backend, backend.wakeups.subscribe([RESULTS]):
        backend.enqueue([row()])
        child = os.fork()
        if child == 0:
            backend.enqueue([row()])
            os._exit(len(backend.list_all_tasks()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        backend.enqueue([row()])
        assert len(backend.list_all_tasks()) == 3


# Races, locks and errors.


def test_a_transaction_that_lost_a_deadlock_is_run_again(url: URL) -> None:
    """Another transaction locks one row, and asks for a second that the writer holds by then."""
    with sitq.SQLAlchemyBackend(url) as backend:
        first, second = backend.enqueue([row(id="a"), row(id="b")])
        for victim in deadlocks(backend, url, first, second):
            assert victim in ("writer", "other")
        assert {backend.get_task(each).status for each in (first, second)} == {"cancelled"}  # type: ignore[union-attr]


def deadlocks(backend: sitq.SQLAlchemyBackend, url: URL, first: str, second: str) -> Iterator[str]:
    """Let two transactions wait for each other; yield who was rolled back."""
    has_first, wants_first = threading.Event(), threading.Event()
    lost: list[str] = []

    def write(session: Any, models: Any) -> None:
        cancel = "UPDATE tasks SET status = 'cancelled' WHERE id = :id"
        session.execute(text(cancel), {"id": second})
        has_first.wait(IN_TIME)
        wants_first.set()
        session.execute(text(cancel), {"id": first})

    def other() -> None:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            touch = "UPDATE tasks SET priority = 7 WHERE id = :id"
            connection.execute(text(touch), {"id": first})
            has_first.set()
            wants_first.wait(IN_TIME)
            try:
                connection.execute(text(touch), {"id": second})
                connection.commit()
            except Exception:
                lost.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    backend._database.write(write)
    thread.join()
    yield from lost or ["writer"]


def test_a_row_that_somebody_locks_is_waited_for_no_longer_than_told(url: URL) -> None:
    with sitq.SQLAlchemyBackend(url, connection_timeout=1) as backend:
        (task_id,) = backend.enqueue([row()])
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text("SELECT id FROM tasks WHERE id = :id FOR UPDATE"), {"id": task_id})
            with pytest.raises(sitq.DatabaseLockedError, match="connection_timeout"):
                backend.update_task_status(task_id, "cancelled")
            connection.rollback()
        backend.update_task_status(task_id, "cancelled")


def test_claims_pass_over_what_another_is_about_to_claim(url: URL) -> None:
    with sitq.SQLAlchemyBackend(url) as backend:
        ids = backend.enqueue([row() for _ in range(4)])
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            for task_id in (ids[0], ids[2]):
                connection.execute(text("SELECT id FROM tasks WHERE id = :id FOR UPDATE"), {"id": task_id})
            claims = backend.claim(ClaimRequest("w", ["default"], 10, 60.0))
        assert [claim.id for claim in claims] == [ids[1], ids[3]]


def test_an_error_shows_no_payload(url: URL) -> None:
    with sitq.SQLAlchemyBackend(url) as backend:
        backend.enqueue([row(id="twice")])
        with pytest.raises(sitq.BackendError) as raised:
            backend.enqueue([row(id="twice", function=b"top secret")])
        assert "top secret" not in f"{raised.value}{raised.value.__cause__}"
        assert backend.list_all_tasks() == ["twice"]


# The clock.


def test_leases_follow_the_clock_of_the_server(url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=1)

    monkeypatch.setattr("sitq.clock.datetime", Wrong)
    backend = sitq.SQLAlchemyBackend(url)
    assert backend.now() > datetime.now(UTC) + timedelta(hours=23)  # nothing is opened yet
    with backend:
        backend.enqueue([row()])
        backend.claim(ClaimRequest("w", ["default"], 1, 60.0))
        assert abs(backend.now() - datetime.now(UTC)) < timedelta(seconds=5)
        with connect(url) as connection:
            lease = "SELECT lease_until FROM tasks"
            left = lease_end(connection.exec_driver_sql(lease).scalar()) - datetime.now(UTC)
        assert timedelta(seconds=50) < left < timedelta(seconds=70)


def lease_end(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def test_the_clock_is_read_again_after_a_while(postgresql: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with sitq.SQLAlchemyBackend(postgresql) as backend:
        backend.enqueue([row()])
        clock = backend._database._clock
        clock._reading += timedelta(hours=1)  # type: ignore[operator]
        assert backend.now() > datetime.now(UTC) + timedelta(minutes=59)
        monkeypatch.setattr("sitq.clock.READ_EVERY", 0.0)
        backend.enqueue([row()])
        assert abs(backend.now() - datetime.now(UTC)) < timedelta(seconds=5)


# News.


@pytest.fixture(params=["postgresql+psycopg", "postgresql+asyncpg"])
def heard(request: pytest.FixtureRequest, postgresql: URL) -> Iterator[tuple[sitq.PostgreSQLBackend, URL]]:
    """A backend that hears, over each driver, and the URL for another that speaks."""
    pytest.importorskip(request.param.partition("+")[2])
    with sitq.PostgreSQLBackend(postgresql.set(drivername=request.param)) as backend:
        yield backend, postgresql


def listeners(url: URL) -> int:
    with connect(url) as connection:
        own = "datname = current_database() AND query ILIKE 'LISTEN%%'"
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM pg_stat_activity WHERE {own}").scalar())


def test_other_processes_hear_of_due_tasks_and_of_results(heard: tuple[sitq.PostgreSQLBackend, URL]) -> None:
    backend, url = heard
    news = backend.wakeups
    with (
        sitq.PostgreSQLBackend(url) as speaker,
        news.subscribe([queue_topic("default")]) as tasks,
        news.subscribe([RESULTS]) as ends,
    ):
        wait_until(lambda: listeners(url) == 1)
        assert tasks.wait(IN_TIME), "it looks again once it listens"
        ends.wait(0)
        speaker.enqueue([row()])
        assert tasks.wait(IN_TIME)
        assert not ends.wait(0)
        speaker.enqueue([row(), row(), row(queue="other")])
        assert tasks.wait(IN_TIME)
        claims = speaker.claim(ClaimRequest("w", ["default"], 3, 60.0))
        speaker.finish([outcome(claim) for claim in claims[:1]])
        assert ends.wait(IN_TIME)
        speaker.finish([outcome(claim) for claim in claims[1:]])
        assert ends.wait(IN_TIME)
        assert not tasks.wait(0)
        [claim] = speaker.claim(ClaimRequest("w", ["other"], 3, 60.0))
        asyncio.run(speaker.afinish_and_claim([outcome(claim)], ClaimRequest("w", ["default"], 3, 60.0)))
        assert ends.wait(IN_TIME)
        assert not tasks.wait(0)


def test_a_process_does_not_hear_its_own_news_again(
    heard: tuple[sitq.PostgreSQLBackend, URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, url = heard
    news = backend.wakeups
    wakes: list[str] = []
    with (
        sitq.PostgreSQLBackend(url) as speaker,
        news.subscribe([queue_topic("default")]) as tasks,
        news.subscribe([queue_topic("other")]) as other,
    ):
        wait_until(lambda: listeners(url) == 1)
        for each in (tasks, other):
            assert each.wait(IN_TIME), "it looks again once it listens"
        monkeypatch.setattr(tasks, "wake", lambda: wakes.append("once"))
        backend.enqueue([row()])
        speaker.enqueue([row(queue="other")])
        assert other.wait(IN_TIME), "news comes in its order, so what was sent before has been heard"
        assert wakes == ["once"]


def outcome(claim: Any) -> Any:
    return sitq.claims.Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=datetime.now(UTC))


def test_nobody_listens_while_nobody_waits(postgresql: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.listening.LINGER", 0.0)
    monkeypatch.setattr("sitq.listening.PATIENCE", 0.05)
    with sitq.PostgreSQLBackend(postgresql) as backend:
        backend.enqueue([row()])
        assert listeners(postgresql) == 0
        for _ in range(2):
            with backend.wakeups.subscribe([RESULTS]):
                wait_until(lambda: listeners(postgresql) == 1)
            wait_until(lambda: listeners(postgresql) == 0)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_closing_does_not_wait_for_news(postgresql: URL, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(driver)
    monkeypatch.setattr("sitq.listening.PATIENCE", IN_TIME * 2)
    with sitq.PostgreSQLBackend(postgresql.set(drivername=f"postgresql+{driver}")) as backend:
        backend.initialize()
        with backend.wakeups.subscribe([RESULTS]):
            wait_until(lambda: listeners(postgresql) == 1)
            closing = threading.Thread(target=backend.close, daemon=True)
            closing.start()
            closing.join(IN_TIME)
            assert not closing.is_alive()


def test_the_listener_comes_back_after_its_connection_was_killed(heard: tuple[sitq.PostgreSQLBackend, URL]) -> None:
    backend, url = heard
    with sitq.PostgreSQLBackend(url) as speaker, backend.wakeups.subscribe([queue_topic("default")]) as tasks:
        wait_until(lambda: listeners(url) == 1)
        kill_connections(url)
        wait_until(lambda: listeners(url) == 1)
        while tasks.wait(1.0):  # what it may have missed
            pass
        speaker.enqueue([row()])
        assert tasks.wait(IN_TIME)


@contextmanager
def everything_sent(url: URL) -> Iterator[list[str]]:
    """Gather each notification, as a client of its own hears them."""
    sent: list[str] = []
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(False), autocommit=True) as connection:
        connection.execute("LISTEN sitq")
        yield sent
        connection.execute("SELECT pg_notify('sitq', 'end')")
        for news in connection.notifies(timeout=IN_TIME):
            if news.payload == "end":
                break
            sent.append(news.payload)


def test_news_is_sent_once_a_transaction_and_queue_and_not_of_future_tasks(postgresql: URL) -> None:
    with sitq.PostgreSQLBackend(postgresql) as backend:
        backend.initialize()
        with everything_sent(postgresql) as sent:
            backend.enqueue([row()])
            backend.enqueue([row(), row(), row(queue="emails"), row()])
            backend.enqueue([row(due_at=datetime.now(UTC) + timedelta(hours=1))])
            backend.enqueue([row(due_at=datetime.now(UTC) + timedelta(hours=1)) for _ in range(3)])
        assert sorted(sent) == ["queue:default", "queue:default", "queue:emails"]


def test_many_rows_are_copied_in_and_written_in_one_statement_each(
    postgresql: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with sitq.PostgreSQLBackend(postgresql, log_queries=True) as backend, caplog.at_level("INFO", "sitq.sql"):
        ids = backend.enqueue([row(args=b"an argument") for _ in range(30)])
        claims = backend.claim(ClaimRequest("worker", ["default"], 30, 30.0))
        caplog.clear()
        assert backend.finish([completion(claim) for claim in claims]) == [True] * 30
        finishing = [record.getMessage() for record in caplog.records]
        more = backend.enqueue([row(args=b"an argument") for _ in range(30)])
        assert {task.id for task in backend.list_tasks()} == {*ids, *more}
    assert sum("UPDATE tasks" in statement for statement in finishing) == 1
    assert sum("INSERT INTO results" in statement for statement in finishing) == 1
    copied = [record.getMessage() for record in caplog.records if record.getMessage().startswith("COPY tasks")]
    assert len(copied) == 1
    assert "30 rows]" in copied[0]
    assert "an argument" not in caplog.text


def completion(claim: Claim) -> Outcome:
    return Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=datetime.now(UTC), value=b"value")


def test_notify_can_be_switched_off(postgresql: URL) -> None:
    with sitq.PostgreSQLBackend(postgresql, notify=False) as backend:
        backend.initialize()
        with everything_sent(postgresql) as sent, backend.wakeups.subscribe([RESULTS]):
            backend.enqueue([row()])
            backend.enqueue([row(), row()])
            assert listeners(postgresql) == 1, "the test's own"
        assert sent == []


def test_news_of_a_rolled_back_enqueue_is_never_sent(postgresql: URL) -> None:
    with sitq.PostgreSQLBackend(postgresql) as backend:
        backend.enqueue([row(id="known")])
        with everything_sent(postgresql) as sent, pytest.raises(sitq.BackendError):
            backend.enqueue([row(id="known")])
        assert sent == []
