"""How many statements the hot paths send, exactly: one more for each row would show here first."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import sitq
from databases import empty_database
from listeners import listening
from sitq.claims import Claim, ClaimRequest, IsolatedTasks, Outcome
from sitq.testing import MovableClock
from sitq.wakeups import RESULTS

KINDS = ("sqlite", "postgresql", "mariadb")
REQUEST = ClaimRequest("worker", ["default"], 100, 30.0)


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sitq.SQLAlchemyBackend]:
    with empty_database(request.param, tmp_path) as url, sitq.open_backend(url) as backend:
        yield backend


@contextmanager
def sent(backend: sitq.SQLAlchemyBackend) -> Iterator[list[str]]:
    """The statements that go out meanwhile, by their first words; for many rows at once a statement counts once."""
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    with listening(backend.engine, "before_cursor_execute", note):
        yield statements


def verbs(statements: list[str]) -> list[str]:
    return [statement.split()[0] for statement in statements]


def completed(claim: Claim) -> Outcome:
    return Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=datetime.now(UTC), value=b"1")


def test_a_hundred_enqueues_are_a_hundred_inserts(backend: sitq.SQLAlchemyBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    queue.enqueue(len, ())
    with sent(backend) as statements:
        for _ in range(100):
            queue.enqueue(len, ())
    assert verbs(statements) == ["INSERT"] * 100


@pytest.mark.parametrize("name", ["begin", "before_cursor_execute", "after_cursor_execute", "commit"])
def test_whoever_listens_to_engines_hears_of_each_enqueue(backend: sitq.SQLAlchemyBackend, name: str) -> None:
    """On SQLite a single enqueue goes past SQLAlchemy, but only while nobody listens."""
    queue = sitq.SyncTaskQueue(backend)
    queue.enqueue(len, ())
    heard: list[str] = []

    def listen(*arguments: Any) -> None:
        heard.append(name)

    with listening(Engine, name, listen):
        queue.enqueue(len, ())
    queue.enqueue(len, ())
    assert heard == [name]
    assert backend.get_stats().total_tasks == 3


def test_a_hundred_rows_in_bulk_are_one_statement(backend: sitq.SQLAlchemyBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    queue.enqueue(len, ())
    with sent(backend) as statements:
        queue.enqueue_many(len, [((),)] * 100)
    # PostgreSQL's COPY goes past the cursor, and what tells of the tasks is a statement of its own.
    assert verbs(statements) == (["SELECT"] if backend.engine.dialect.name == "postgresql" else ["INSERT"])


def test_a_hundred_claims_are_a_few_statements(backend: sitq.SQLAlchemyBackend) -> None:
    sitq.SyncTaskQueue(backend).enqueue_many(len, [((),)] * 100)
    with sent(backend) as statements:
        assert len(backend.claim(REQUEST)) == 100
    # The claim looks for future tasks that are due on its way.
    assert verbs(statements) == (["UPDATE"] if backend.engine.dialect.name == "postgresql" else ["SELECT", "UPDATE"])


def test_a_claim_that_finds_nothing_looks_for_future_tasks_and_for_isolated_ones(
    backend: sitq.SQLAlchemyBackend,
) -> None:
    assert backend.claim(REQUEST) == []
    with sent(backend) as statements:
        assert backend.claim(REQUEST) == []
    assert verbs(statements) == [
        "UPDATE" if backend.engine.dialect.name == "postgresql" else "SELECT",
        "SELECT",
        "SELECT",
    ]


def test_a_hundred_endings_and_the_next_claim_are_a_few_statements(backend: sitq.SQLAlchemyBackend) -> None:
    sitq.SyncTaskQueue(backend).enqueue_many(len, [((),)] * 200)
    outcomes = [completed(claim) for claim in backend.claim(REQUEST)]
    with sent(backend) as statements:
        held, claims = backend.finish_and_claim(outcomes, REQUEST)
    assert held == [True] * 100
    assert len(claims) == 100
    # The endings and their results, on PostgreSQL with the news of them; the claim as above.
    several = ["UPDATE", "INSERT", "SELECT", "UPDATE"]
    assert verbs(statements) == (["WITH", "UPDATE"] if backend.engine.dialect.name == "postgresql" else several)


def test_a_hundred_coroutines_share_a_commit(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"

    async def enqueue_at_once(backend: sitq.SQLiteBackend) -> list[str]:
        queue = sitq.TaskQueue(backend)
        await queue.enqueue(len, ())
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with sent(backend) as statements:
            waiting = [asyncio.create_task(queue.enqueue(len, ())) for _ in range(100)]
            await asyncio.sleep(0)  # each has left its row with the writer, which waits for the lock
            other.execute("ROLLBACK")
            await asyncio.gather(*waiting)
        other.close()
        return statements

    with sitq.SQLiteBackend(file) as backend:
        statements = asyncio.run(enqueue_at_once(backend))
        assert backend.get_stats().total_tasks == 101
    # Those that had come when the writer began, and all others.
    assert 1 <= len(statements) <= 2


def test_an_enqueue_is_one_way_to_the_server(tmp_path: Path) -> None:
    with traffic_on_postgresql(tmp_path) as (backend, traffic):
        queue = sitq.SyncTaskQueue(backend)
        messages = traffic(lambda: queue.enqueue(len, ()))
        assert ways(messages) == 1
        assert any("CommandComplete" in message and "INSERT 0 1" in message for message in messages)
        assert backend.get_stats().total_tasks == 1


@pytest.mark.parametrize("verb", ["get_task", "get_result", "has_result"])
def test_a_look_is_one_way_to_the_server(tmp_path: Path, verb: str) -> None:
    with traffic_on_postgresql(tmp_path) as (backend, traffic):
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, ())
        backend.store_result(task_id, sitq.Result(task_id=task_id))
        assert ways(traffic(lambda: getattr(backend, verb)(task_id))) == 1
        assert ways(traffic(lambda: backend.get_statuses([task_id]))) == 1


def test_an_idle_worker_claims_in_one_way_to_the_server_and_looks_in_two(tmp_path: Path) -> None:
    with traffic_on_postgresql(tmp_path) as (backend, traffic), asyncio.Runner() as runner:
        queue = sitq.SyncTaskQueue(backend)
        claimed: list[Claim] = []
        for _ in range(2):
            queue.enqueue(len, ())
            assert ways(traffic(lambda: claimed.extend(round_of(runner, backend, [])[1]))) == 1
            assert ways(traffic(lambda: round_of(runner, backend, []))) == 2
        assert len(claimed) == 2


def test_a_worker_writes_what_has_ended_and_claims_the_next_in_one_way_to_the_server(tmp_path: Path) -> None:
    with traffic_on_postgresql(tmp_path) as (backend, traffic), asyncio.Runner() as runner:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [((),)] * 250)
        seen: list[tuple[list[bool], list[Claim]]] = [([], [])]
        for expected in (1, 1, 1, 2):  # where it finds nothing, it looks for future tasks
            outcomes = [completed(claim) for claim in seen[-1][1]]
            assert ways(traffic(lambda given=outcomes: seen.append(round_of(runner, backend, given)))) == expected
        assert [(len(held), len(claims)) for held, claims in seen[1:]] == [(0, 100), (100, 100), (100, 50), (50, 0)]
        assert all(holds for held, _ in seen for holds in held)
        assert set(backend.get_statuses(ids).values()) == {sitq.TaskStatus.COMPLETED}


def test_a_round_alone_says_which_claims_were_lost(backend: sitq.SQLAlchemyBackend) -> None:
    ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [((),)] * 3)
    first, second = backend.claim(ClaimRequest("worker", ["default"], 2, 30.0))
    backend.reap_workers(["worker"])
    [again] = backend.claim(ClaimRequest("other", ["default"], 1, 30.0, IsolatedTasks.FIRST))
    assert again.id == first.id
    [other] = backend.claim(ClaimRequest("worker", ["default"], 1, 30.0, IsolatedTasks.NONE))
    with asyncio.Runner() as runner:
        held, claims = round_of(runner, backend, [completed(first), completed(other), completed(second)])
        assert held == [False, True, False]
        assert [(claim.id, claim.isolated) for claim in claims] == [(second.id, True)]
        # The same outcome once more, as after an answer that was lost.
        assert round_of(runner, backend, [completed(other)])[0] == [True]
    assert backend.has_result(ids[2])
    assert not backend.has_result(ids[0])


def test_who_waits_for_a_task_that_expired_is_woken_when_a_round_has_ended_it(backend: sitq.SQLAlchemyBackend) -> None:
    clock = MovableClock()
    backend.use_clock(clock)
    queue = sitq.SyncTaskQueue(backend)
    queue.enqueue(len, ())
    [claim] = backend.claim(REQUEST)
    expiring = queue.options(expires_in=1).enqueue(len, ())
    clock.move(1)
    with backend.wakeups.subscribe([RESULTS]) as news, ThreadPoolExecutor(1) as threads, asyncio.Runner() as runner:

        def wait_for_the_end() -> bool:
            while backend.get_statuses([expiring])[expiring] is not sitq.TaskStatus.CANCELLED:
                if not news.wait(20.0):
                    return False
            return True

        in_time = threads.submit(wait_for_the_end)
        assert round_of(runner, backend, [completed(claim)]) == ([True], [])
        assert in_time.result()


def round_of(
    runner: asyncio.Runner, backend: sitq.SQLAlchemyBackend, outcomes: list[Outcome]
) -> tuple[list[bool], list[Claim]]:
    return runner.run(backend.afinish_and_claim(outcomes, REQUEST))


def test_an_idle_worker_is_given_what_has_become_due_and_nothing_that_has_expired(
    backend: sitq.SQLAlchemyBackend,
) -> None:
    async def claim() -> list[str]:
        return [claim.id for claim in (await backend.afinish_and_claim([], REQUEST))[1]]

    clock = MovableClock()
    backend.use_clock(clock)
    queue = sitq.SyncTaskQueue(backend)
    expiring = [queue.options(expires_in=60).enqueue(len, ()) for _ in range(2)]
    clock.move(60)
    wanted = queue.enqueue(len, ())
    assert asyncio.run(claim()) == [wanted]
    expiring.append(queue.options(expires_in=60).enqueue(len, ()))
    later = queue.options(delay=60).enqueue(len, ())
    clock.move(60)
    assert asyncio.run(claim()) == [later]
    assert backend.get_statuses(expiring) == dict.fromkeys(expiring, sitq.TaskStatus.CANCELLED)
    assert asyncio.run(claim()) == []


def ways(messages: list[str]) -> int:
    """How many ways to the server and back these messages are."""
    return sum("ReadyForQuery" in message for message in messages)


@contextmanager
def traffic_on_postgresql(
    folder: Path,
) -> Iterator[tuple[sitq.SQLAlchemyBackend, Callable[[Callable[[], object]], list[str]]]]:
    """A backend there, and what gives the messages of a call to the server and back, whichever connections it uses."""
    connections: list[Any] = []

    def note(connection: Any, record: Any) -> None:
        connections.append(connection)

    def traffic(call: Callable[[], object]) -> list[str]:
        with ExitStack() as traces:
            open_ones = [connection for connection in connections if not connection.closed]
            each = [traces.enter_context(traced(driver, folder / str(at))) for at, driver in enumerate(open_ones)]
            call()
        return [message for messages in each for message in messages]

    with empty_database("postgresql", folder) as url:
        backend = sitq.open_backend(url)
        with listening(backend.engine, "connect", note), backend:
            backend.finish_and_claim([], REQUEST)  # the writer takes what is in the pool
            backend.get_stats()
            yield backend, traffic


@contextmanager
def traced(driver: Any, file: Path) -> Iterator[list[str]]:
    """The messages between psycopg and its server meanwhile."""
    messages: list[str] = []
    with file.open("w") as trace:
        driver.pgconn.trace(trace.fileno())
        yield messages
        driver.pgconn.untrace()
    messages += file.read_text().splitlines()
