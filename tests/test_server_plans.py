"""On each server, the statements that workers send all day seek their index, in a table full of other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

import sitq
from databases import empty_database
from listeners import listening
from sitq.claims import Claim, ClaimRequest, Outcome
from sitq.ids import new_id

DAY = timedelta(days=1)
ANALYZE = {"postgresql": "ANALYZE tasks", "mariadb": "ANALYZE TABLE tasks"}


@pytest.fixture(params=ANALYZE, scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[sitq.SQLAlchemyBackend]:
    with empty_database(request.param, Path()) as url, sitq.SQLAlchemyBackend(url) as backend:
        fill(backend)
        with backend.engine.connect() as connection:
            connection.exec_driver_sql(ANALYZE[request.param])
            connection.commit()
        yield backend


def fill(backend: sitq.SQLAlchemyBackend) -> None:
    """Ten thousand due tasks, as many of another queue, as many that are over, and half as many in the future."""
    rows = [row(queue=queue, priority=number % 3) for queue in ("default", "other", "over") for number in range(10_000)]
    backend.enqueue([*rows, *(row(due_at=datetime.now(UTC) + DAY) for _ in range(5_000))])
    with backend.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE tasks SET status = 'completed', completed_at = created_at WHERE queue = 'over'"
        )


def row(**columns: Any) -> dict[str, Any]:
    return {
        "id": new_id(),
        "function": b"f" * 200,
        "name": "f",
        "queue": "default",
        "priority": 0,
        "max_retries": 0,
        "created_at": datetime.now(UTC),
        **columns,
    }


def plans(engine: Engine, verb: Any, *args: Any) -> tuple[Any, dict[str, list[str]]]:
    """Call a verb; return what it returned, and the plan of each statement about tasks that it sent."""
    sent: dict[str, Any] = {}

    def note(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if "tasks" in statement and not statement.startswith(("INSERT", "EXPLAIN", "SHOW")):
            sent[statement] = parameters[0] if many else parameters

    with listening(engine, "before_cursor_execute", note):
        outcome = verb(*args)
    with engine.connect() as connection:
        return outcome, {statement: plan(connection, statement, sent[statement]) for statement in sent}


def plan(connection: Connection, statement: str, parameters: Any) -> list[str]:
    lines = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings().all()
    return [" ".join(f"{name}={value}" for name, value in line.items()) for line in lines]


def seeks(statement_plan: list[str]) -> bool:
    """Whether no step reads the table or an index from end to end, or sorts more than one row.

    A time bounds nothing in an index unless the columns before it are bound too.
    """
    slow = ("Seq Scan on tasks", "Index Cond: (due_at <", "Sort Key", "table=tasks type=ALL", "table=tasks type=index")
    slow += ("filesort",)
    return not any(word in line for line in statement_plan for word in slow if " rows=1 " not in line)


def uses(found: dict[str, list[str]], index: str) -> bool:
    """Whether a plan reads an index. MariaDB names those too that it might have read."""
    words = (f" on {index}", f" using {index}", f" key={index}")
    return any(word in line for each in found.values() for line in each for word in words)


def claim_some(backend: sitq.SQLAlchemyBackend, limit: int = 20) -> list[Claim]:
    return backend.claim(ClaimRequest("w", ["default"], limit, 60.0))


def completed(backend: sitq.SQLAlchemyBackend, claims: list[Claim]) -> list[Outcome]:
    at = backend.now()
    return [Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=at, value=b"v") for claim in claims]


def test_claims_seek_the_first_due_tasks(backend: sitq.SQLAlchemyBackend) -> None:
    claims, found = plans(backend.engine, claim_some, backend)
    assert len(claims) == 20
    assert uses(found, "ix_tasks_claim"), found
    assert [each for each in found.values() if not seeks(each)] == []


def test_an_empty_claim_seeks_too(backend: sitq.SQLAlchemyBackend) -> None:
    claims, found = plans(backend.engine, backend.claim, ClaimRequest("w", ["none"], 20, 60.0))
    assert claims == []
    assert found != {}
    assert [each for each in found.values() if not seeks(each)] == []


def test_the_look_of_an_idle_worker_seeks_too(backend: sitq.SQLAlchemyBackend) -> None:
    request = ClaimRequest("w", ["none"], 20, 60.0)
    answer, found = plans(backend.engine, lambda: asyncio.run(backend.afinish_and_claim([], request)))
    assert answer == ([], [])
    assert found != {}
    assert [each for each in found.values() if not seeks(each)] == []


def test_endings_and_extensions_seek_their_tasks(backend: sitq.SQLAlchemyBackend) -> None:
    claims = claim_some(backend)
    tokens = [claim.token for claim in claims]
    held, found = plans(backend.engine, backend.extend, tokens, 60.0)
    assert held == [True] * 20
    assert found != {}
    assert [each for each in found.values() if not seeks(each)] == []
    held, found = plans(backend.engine, backend.finish, completed(backend, claims))
    assert held == [True] * 20
    assert found != {}
    assert [each for each in found.values() if not seeks(each)] == []
    # Until the next VACUUM the index of the leases is full of the entries of tasks that have ended.
    assert not uses(found, "ix_tasks_lease"), found


def test_endings_with_the_next_claim_seek_their_tasks(backend: sitq.SQLAlchemyBackend) -> None:
    outcomes = completed(backend, claim_some(backend))
    request = ClaimRequest("w", ["default"], 20, 60.0)
    answer, found = plans(backend.engine, lambda: asyncio.run(backend.afinish_and_claim(outcomes, request)))
    assert answer[0] == [True] * 20
    assert len(answer[1]) == 20
    assert uses(found, "ix_tasks_claim"), found
    assert [each for each in found.values() if not seeks(each)] == []
    assert not uses(found, "ix_tasks_lease"), found


def test_reaping_seeks_lapsed_leases(backend: sitq.SQLAlchemyBackend) -> None:
    claim_some(backend)
    reaped, found = plans(backend.engine, backend.reap)
    assert reaped == []
    assert uses(found, "ix_tasks_lease"), found
    assert [each for each in found.values() if not seeks(each)] == []


def test_the_next_due_time_is_sought(backend: sitq.SQLAlchemyBackend) -> None:
    due, found = plans(backend.engine, backend.next_due_at, ["default"])
    assert due > datetime.now(UTC)
    assert uses(found, "ix_tasks_due"), found
    assert [each for each in found.values() if not seeks(each)] == []


@pytest.mark.parametrize("kind", ANALYZE)
def test_a_claim_of_many_in_a_small_table_seeks_too(kind: str) -> None:
    """Else it would lock every due task on its way, and leave none for others."""
    with empty_database(kind, Path()) as url, sitq.SQLAlchemyBackend(url) as small:
        small.enqueue([row() for _ in range(20)])
        claims, found = plans(small.engine, claim_some, small, 10)
        assert len(claims) == 10
        if kind == "mariadb":  # PostgreSQL locks only what it returns, whatever it reads
            assert any("key=ix_tasks_claim" in line for each in found.values() for line in each), found


FUTURE = datetime(2199, 1, 1, tzinfo=UTC)
COMMON: dict[str, Callable[[int], dict[str, Any]]] = {
    "waiting": lambda _: {},
    "released": lambda number: {"due_at": datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=number)},
    "tried": lambda _: {"retry_count": 1},
    "future": lambda number: {"due_at": FUTURE + timedelta(seconds=number)},
}


@pytest.mark.parametrize("analyze", [False, True])
@pytest.mark.parametrize("common", COMMON)
def test_counting_looks_at_most_tasks_by_a_bare_count_only(common: str, analyze: bool) -> None:
    """Where indexes hold all tasks, of all but the commonest kind each is looked at; whatever statistics there are."""
    with empty_database("mariadb", Path()) as url, sitq.SQLAlchemyBackend(url) as backend:
        backend.enqueue([row(), *(row(queue="rare") for _ in range(20))])
        backend.enqueue([row(queue="common", **COMMON[common](number)) for number in range(3_000)])
        if analyze:
            with backend.engine.connect() as connection:
                connection.exec_driver_sql(ANALYZE["mariadb"])
        stats, read = entries_read(backend.engine, backend.get_stats)
        _, found = plans(backend.engine, backend.get_stats)
    assert stats.total_tasks == 3_021
    assert 3_021 <= sum(read.values()) < 3_500, read
    scans = [step for each in found.values() for step in each if " type=index " in step and " rows=1 " not in step]
    assert len(scans) == 1, scans
    assert "key=uq_tasks_unique_key " in scans[0], "the smallest index"


def entries_read(engine: Engine, verb: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """Call a verb; return what it returned, and how many entries of tables and indexes MariaDB read for each statement.

    Looking for that reads some more.
    """
    read: dict[str, int] = {}
    before = [0]

    def note(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        with connection.connection.cursor() as own:
            own.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            after = sum(int(number) for _, number in own.fetchall())
        before[0], read[statement] = after, read.get(statement, 0) + after - before[0]

    with engine.connect() as connection:
        connection.exec_driver_sql("FLUSH STATUS")
    with listening(engine, "after_cursor_execute", note):
        return verb(), read


def test_counting_looks_once_at_each_task_of_a_mixture(backend: sitq.SQLAlchemyBackend) -> None:
    stats, found = plans(backend.engine, backend.get_stats)
    assert stats.total_tasks == 35_000
    steps = [step for each in found.values() for step in each if "table=tasks" in step]
    assert len([step for step in steps if " type=index " in step and " rows=1 " not in step]) <= 1, steps
