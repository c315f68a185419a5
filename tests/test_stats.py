"""How many tasks there are: what ``get_stats`` counts, on every backend and through both doors."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from listeners import listening
from sitq import Snooze, SQLAlchemyBackend, SyncTaskQueue, TaskQueue, Worker
from sitq.backends.base import BaseBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.ids import new_id
from sitq.models import Task
from sitq.stats import Stats, TaskCounts
from sitq.testing.records import completed, new_row, request, retried
from working import gate, reset, run, until, wait_at_gate, wait_started


def stored(backend: BaseBackend, **columns: object) -> Task:
    task = Task(**{"id": new_id(), "function": b"f", "created_at": backend.now(), "name": "m.f", **columns})
    backend.store_task(task)
    return task


@pytest.fixture
def listing(backend: BaseBackend) -> BaseBackend:
    """The backends of the conftest that know what was stored past their queue."""
    if type(backend).list_all_tasks is BaseBackend.list_all_tasks:
        pytest.skip("knows only what was enqueued through it")
    return backend


def test_an_empty_backend_has_no_tasks(backend: BaseBackend) -> None:
    assert backend.get_stats() == Stats()


def test_waiting_tasks_are_counted_by_queue(backend: BaseBackend) -> None:
    now = backend.now()
    oldest, past, to_come = (now + timedelta(hours=hours) for hours in (-3, -1, 1))
    rows = [
        new_row(queue="mail", created_at=oldest, due_at=to_come),
        new_row(queue="mail", created_at=oldest, due_at=past),
        new_row(queue="mail", created_at=now),
        new_row(queue="default", created_at=oldest),
    ]
    backend.enqueue(rows)
    mail = TaskCounts(total_tasks=3, pending_tasks=3, scheduled_tasks=1, oldest_due_at=past)
    default = TaskCounts(total_tasks=1, pending_tasks=1, oldest_due_at=oldest)
    stats = backend.get_stats()
    assert stats == Stats(
        total_tasks=4,
        pending_tasks=4,
        scheduled_tasks=1,
        oldest_due_at=oldest,
        queues={"default": default, "mail": mail},
    )
    assert list(stats.queues) == ["default", "mail"]
    assert asyncio.run(counted_on_a_loop(backend)) == stats


async def counted_on_a_loop(backend: BaseBackend) -> Stats:
    stats = await backend.aget_stats()
    await backend.aclose()
    return stats


def test_every_status_is_counted(listing: BaseBackend) -> None:
    now = listing.now()
    for status, how_many in {"running": 1, "completed": 2, "failed": 3, "cancelled": 4}.items():
        for _ in range(how_many):
            stored(listing, status=status, retry_count=1, due_at=now + timedelta(hours=1))
    stored(listing, status="queued", retry_count=2, due_at=now + timedelta(hours=1))
    stored(listing, status=None, created_at=now)
    assert listing.get_stats() == Stats(
        total_tasks=12,
        pending_tasks=2,
        running_tasks=1,
        completed_tasks=2,
        failed_tasks=3,
        cancelled_tasks=4,
        scheduled_tasks=1,
        retrying_tasks=1,
        oldest_due_at=now,
        queues={"default": TaskCounts(**counts(listing.get_stats()))},
    )
    assert BaseBackend.get_stats(listing) == listing.get_stats()


def counts(stats: Stats) -> dict[str, object]:
    return {name: getattr(stats, name) for name in TaskCounts.__slots__}


def test_a_status_of_somebody_elses_counts_in_the_total_only(listing: BaseBackend) -> None:
    if not isinstance(listing, SQLiteBackend):
        pytest.skip("only a database can be written past sitq")
    task = stored(listing)
    with listing.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tasks SET status = 'archived' WHERE id = ?", (task.id,))
    counted = listing.get_stats()
    assert (counted.total_tasks, counted.pending_tasks) == (1, 0)


def test_the_oldest_is_found_beside_one_that_was_enqueued_before_it_and_tried_again(listing: BaseBackend) -> None:
    now = listing.now()
    hours = [now - timedelta(hours=hours) for hours in (3, 2, 1)]
    stored(listing, created_at=hours[0], due_at=hours[2], retry_count=1)
    assert listing.get_stats().oldest_due_at == hours[2]
    stored(listing, created_at=hours[1])
    assert listing.get_stats().oldest_due_at == hours[1]


@pytest.mark.parametrize(
    "by_hand",
    [
        {},
        {"status": None},
        {"status": "completed"},
        {"status": "queued", "completed_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"status": "running", "completed_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
    ids=str,
)
def test_any_mixture_is_counted_as_by_looking_at_each_task(listing: BaseBackend, by_hand: dict[str, Any]) -> None:
    """Each index counts its own; where a row by hand is in two, all of them are looked at."""
    chance, now = random.Random(7), listing.now()
    times = [None, now - timedelta(hours=2), now - timedelta(hours=1), now + timedelta(hours=1)]
    if by_hand:
        stored(listing)
        write(listing, by_hand)
    for _ in range(150):
        status = chance.choice(["queued", "queued", "queued", "running", "completed", "failed", "cancelled"])
        due_at = chance.choice(times)
        stored(
            listing,
            queue=chance.choice(["a", "B", "c d"]),
            status=status,
            completed_at=None if status in ("queued", "running") else now,
            due_at=due_at,
            scheduled=status == "queued" and due_at is not None and chance.random() < 0.5,
            retry_count=chance.choice([0, 0, 1, 5]),
            priority=chance.choice([-1, 0, 3]),
        )
    assert listing.get_stats() == BaseBackend.get_stats(listing)


@pytest.mark.parametrize(
    "common",
    [
        {},
        {"due_at": timedelta(hours=-1), "scheduled": True},
        {"due_at": timedelta(hours=1), "scheduled": True},
        {"due_at": timedelta(hours=-2), "retry_count": 2},
        {"status": "completed", "completed_at": timedelta(0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("by_hand", [0, 1])
def test_what_is_rare_is_counted_beside_most_tasks_of_one_kind(
    listing: BaseBackend, common: dict[str, Any], by_hand: int
) -> None:
    """Some of the others come before it in every index, and some after it."""
    now = listing.now()
    rare: list[dict[str, Any]] = [
        {"status": status, "retry_count": retry_count, "due_at": due_at, "scheduled": scheduled}
        for status in ("cancelled", "queued", "running", "failed")
        for retry_count in (0, 3)
        for due_at, scheduled in ((None, False), (timedelta(hours=-3), False), (timedelta(hours=3), True))
        if status == "queued" or not scheduled
    ]
    for columns in [*(common for _ in range(400)), *rare, *rare[::2], *({"status": None} for _ in range(by_hand))]:
        for queue in ("m",) if columns is common else ("a", "m", "z"):
            row = {name: now + value if isinstance(value, timedelta) else value for name, value in columns.items()}
            stored(listing, queue=queue, **row)
    assert listing.get_stats() == BaseBackend.get_stats(listing)


def write(listing: BaseBackend, by_hand: dict[str, Any]) -> None:
    """Change the only task past sitq."""
    assert isinstance(listing, SQLAlchemyBackend), "nothing else keeps what was stored past its queue"
    with listing.engine.begin() as connection:
        connection.execute(update(Task).values(by_hand))


def test_many_queues_are_counted(backend: BaseBackend) -> None:
    backend.enqueue([new_row(queue=f"queue {number}") for number in range(300)])
    stats = backend.get_stats()
    assert len(stats.queues) == stats.pending_tasks == 300


def test_rows_that_were_written_by_hand_are_counted_as_they_are(listing: BaseBackend) -> None:
    """Waiting tasks without a time among those that wait for theirs, and without a time of their making."""
    if not isinstance(listing, SQLAlchemyBackend):
        pytest.skip("only a database can be written past sitq")
    now = listing.now()
    for retry_count in (0, 3):
        stored(listing, due_at=now + timedelta(hours=1), scheduled=True, retry_count=retry_count)
    stored(listing, created_at=now - timedelta(hours=1))
    stored(listing, created_at=now)
    for change in (
        "created_at = due_at, due_at = NULL WHERE retry_count = 3",
        "created_at = '2020-01-01 00:00:00', due_at = NULL WHERE due_at IS NOT NULL",
        "created_at = NULL WHERE id = (SELECT min(id) FROM tasks WHERE NOT scheduled)",
    ):
        with listing.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE tasks SET {change}")
        assert listing.get_stats() == BaseBackend.get_stats(listing), change


@pytest.mark.parametrize("others", ["waiting", "future", "retried", "ended"])
def test_no_row_is_looked_at_to_count_tasks(tmp_path: Path, others: str) -> None:
    """In SQLite's plan, each search of the table is in an index that covers what it asks for."""
    columns: dict[str, dict[str, Any]] = {
        "future": {"due_at": datetime(2199, 1, 1, tzinfo=UTC)},
        "retried": {"retry_count": 2},
    }
    with SQLiteBackend(tmp_path / "tasks.db") as backend:
        task_ids = backend.enqueue([new_row(**columns.get(others, {})) for _ in range(50)])
        if others == "ended":
            SyncTaskQueue(backend).cancel(task_ids)
        backend.optimize()
        statements: list[tuple[str, Any]] = []

        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
            statements.append((statement, parameters))

        with listening(backend.engine, "before_cursor_execute", note):
            assert backend.get_stats().total_tasks == 50
        selects = [each for each in statements if "SELECT" in each[0]]
        with sqlite3.connect(tmp_path / "tasks.db") as connection:
            plans = [
                step[3]
                for statement, parameters in selects
                for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]
        connection.close()
    ways = [plan for plan in plans if plan.startswith(("SCAN tasks", "SEARCH tasks"))]
    rows_are_read = [plan for plan in ways if "COVERING INDEX" not in plan]
    # Of what workers hold, of the first one for its time, of what is overdue, and where statistics say that there are
    # next to none.
    few = [
        "ix_tasks_lease",
        "sqlite_autoindex_tasks_1 (id=?)",
        "ix_tasks_due (status=? AND scheduled=? AND due_at<?)",
        "ix_tasks_due (status=? AND scheduled=? AND due_at=?)",
        *(["ix_tasks_claim"] if others == "future" else []),
    ]
    assert all(any(index in plan for index in few) for plan in rows_are_read), ways


def test_a_queue_that_appears_while_tasks_are_counted_is_counted_in_full_or_not_at_all(listing: BaseBackend) -> None:
    if not isinstance(listing, SQLAlchemyBackend):
        pytest.skip("only a database is asked by statements")
    stored(listing)
    names = iter(["new"])

    def appear(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "UNION ALL" in statement:
            for name in names:
                stored(listing, queue=name)

    with listening(listing.engine, "before_cursor_execute", appear):
        stats = listing.get_stats()
    assert next(names, None) is None
    assert stats.queues["default"].pending_tasks == 1
    assert None not in [counts.oldest_due_at for counts in stats.queues.values()]


def test_a_queue_of_two_spellings_is_counted(listing: BaseBackend) -> None:
    """MariaDB takes them for one."""
    for queue in ("a", "a ", "A"):
        for status in ("queued", "running", "failed"):
            stored(listing, queue=queue, status=status)
    stats = listing.get_stats()
    assert (stats.total_tasks, stats.pending_tasks, stats.running_tasks, stats.failed_tasks) == (9, 3, 3, 3)
    assert sum(counts.pending_tasks for counts in stats.queues.values()) == 3


def test_counts_are_of_one_moment_while_others_claim_and_finish(backend: BaseBackend) -> None:
    """Whatever a task is just now, it is counted once."""
    backend.enqueue([new_row(queue=queue) for queue in [*(["common"] * 500), *(["rare"] * 20)]])
    rounds, about_to_look = 50, threading.Semaphore(0)

    def work() -> None:
        for _ in range(rounds):
            about_to_look.acquire()
            first, *others = backend.claim(request(queues=("rare", "common"), limit=7))
            backend.finish([completed(first), *(retried(claim, claim.created_at) for claim in others)])
            backend.retry([first.id])

    seen = []
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(work)
        for _ in range(rounds):
            about_to_look.release()
            seen.append(backend.get_stats())
        worker.result()
    assert {stats.total_tasks for stats in seen} == {520}
    assert {stats.pending_tasks + stats.running_tasks + stats.completed_tasks for stats in seen} == {520}


def fail() -> None:
    raise ValueError("on purpose")


def snooze() -> None:
    raise Snooze(3600)


def test_whatever_became_of_a_task_it_is_counted_by_an_index(backend: BaseBackend) -> None:
    """They need not be counted again by their rows: none of sitq's own endings leaves one in two indexes."""
    if not isinstance(backend, SQLAlchemyBackend):
        pytest.skip("only a database has indexes")

    async def scenario() -> None:
        queue = TaskQueue(backend)
        async with Worker(backend, shutdown_timeout=0.1):
            once = await queue.enqueue(fail)
            again = await queue.options(max_retries=3, retry_delay=3600).enqueue(fail)
            await queue.enqueue(snooze)
            ended = [once, await queue.enqueue(len, "four")]
            async for _ in queue.as_completed(ended):
                pass
            await queue.cancel(await queue.options(delay=3600).enqueue(len, "four"))
            await queue.retry(once)
            await queue.enqueue(wait_at_gate, 1)  # which is given back when the worker stops
            await wait_started(1)
            await until(lambda: [task.retry_count for task in backend.list_tasks() if task.id == again] == [1])

    reset()
    run(scenario)
    statements: list[str] = []
    with listening(backend.engine, "before_cursor_execute", lambda *call: statements.append(call[2])):
        stats = backend.get_stats()
    gate.set()
    assert stats == BaseBackend.get_stats(backend)
    assert (stats.total_tasks, stats.retrying_tasks, stats.cancelled_tasks, stats.completed_tasks) == (6, 1, 1, 1)
    assert len([statement for statement in statements if "GROUP BY" in statement]) == 1
