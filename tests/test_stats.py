"""How many tasks there are: what ``get_stats`` counts, on every backend and through both doors."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from sitq.backends.base import BaseBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.ids import new_id
from sitq.models import Task
from sitq.stats import Stats, TaskCounts
from sitq.testing.records import new_row


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
