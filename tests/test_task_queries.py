"""Questions in SQL about tasks: what their times say, and who cancels or retries what a statement selects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, delete, func, select, text, update
from sqlalchemy.orm import Session, aliased

from databases import KINDS, empty_database
from dict_backend import DictBackend
from server_contract import emptied
from sitq import (
    InvalidArgumentError,
    NotAvailableError,
    Result,
    SQLAlchemyBackend,
    SyncTaskQueue,
    Task,
    TaskQueue,
)
from sitq.testing.records import completed, new_row, request

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)


@pytest.fixture(params=KINDS)
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, server_database: Callable[[str], URL]
) -> Iterator[SQLAlchemyBackend]:
    if request.param == "sqlite":
        with empty_database("sqlite", tmp_path) as url, SQLAlchemyBackend(url) as backend:
            yield backend
        return
    with SQLAlchemyBackend(emptied(server_database(request.param))) as backend:
        yield backend


def task(task_id: str, **columns: Any) -> Task:
    return Task(id=task_id, function=b"f", **columns)


def matching(backend: SQLAlchemyBackend, condition: Any) -> set[str]:
    with Session(backend.engine) as session:
        return set(session.scalars(select(Task.id).where(condition)))


def test_times_say_the_same_in_python_and_in_sql(backend: SQLAlchemyBackend) -> None:
    begun = {"created_at": NOW - 3 * HOUR, "started_at": NOW - 2 * HOUR}
    ended = {"completed_at": NOW - 2 * HOUR + timedelta(seconds=2.5)}
    for each in (
        task("at once", created_at=NOW - HOUR),
        task("overdue", created_at=NOW - HOUR, due_at=NOW - timedelta(minutes=1)),
        task("later", created_at=NOW - HOUR, due_at=NOW + HOUR, scheduled=True),
        task("running", **begun, status="running"),
        task("ended", **begun, **ended, status="completed"),
        task("tried before", created_at=NOW - 3 * HOUR, started_at=NOW - 2 * HOUR),
    ):
        backend.store_task(each)
    assert matching(backend, Task.is_due) == {"at once", "overdue", "tried before"}
    assert matching(backend, ~Task.is_due) == {"later", "running", "ended"}
    assert matching(backend, Task.age > 2 * 3600) == {"running", "ended", "tried before"}
    assert matching(backend, Task.run_time > 3600) == {"running"}
    assert matching(backend, Task.run_time.is_(None)) == {"at once", "overdue", "later", "tried before"}
    with Session(backend.engine) as session:
        for found, is_due, age, run_time in session.execute(select(Task, Task.is_due, Task.age, Task.run_time)):
            assert bool(is_due) is found.is_due
            assert age == pytest.approx(found.age, abs=300)
            assert type(age) is float
            assert run_time == (found.run_time if found.run_time is None else pytest.approx(found.run_time, abs=300))
            if found.id == "ended":
                assert run_time == pytest.approx(2.5, abs=0.001)
    assert task("not stored").age is None


def test_what_a_statement_selects_is_cancelled(backend: SQLAlchemyBackend) -> None:
    mail = backend.enqueue([new_row(queue="mail") for _ in range(3)])
    others = backend.enqueue([new_row()])
    running, *waiting = mail
    backend.claim(request(queues=["mail"], limit=1))
    queue = SyncTaskQueue(backend)
    assert queue.cancel(select(Task).where(Task.queue == "mail"), reason="no more mail") == {
        running: "requested",
        **dict.fromkeys(waiting, "cancelled"),
    }
    assert backend.get_result(waiting[0]).error_message == "no more mail"  # type: ignore[union-attr]
    assert backend.get_statuses(others)[others[0]] == "queued"
    assert queue.cancel(select(Task).where(Task.queue == "nowhere")) == {}


def test_what_a_statement_selects_is_retried(backend: SQLAlchemyBackend) -> None:
    ids = backend.enqueue([new_row() for _ in range(3)])
    backend.finish([completed(claim) for claim in backend.claim(request(limit=2))])

    async def retry() -> Any:
        return await TaskQueue(backend).retry(select(Task).order_by(Task.id.desc()).limit(2))

    assert asyncio.run(retry()) == {ids[1]: "queued", ids[2]: "unfinished"}
    assert backend.get_statuses(ids) == {ids[0]: "completed", ids[1]: "queued", ids[2]: "queued"}
    assert not backend.has_result(ids[1])


def test_more_than_one_statement_may_name_are_selected(tmp_path: Path) -> None:
    with SQLAlchemyBackend(f"sqlite:///{tmp_path / 'x.db'}") as backend:
        ids = backend.enqueue([new_row() for _ in range(1100)])

        async def cancel() -> Any:
            return await TaskQueue(backend).cancel(select(Task).where(Task.is_due))

        assert asyncio.run(cancel()) == dict.fromkeys(ids, "cancelled")
        assert SyncTaskQueue(backend).retry(select(Task)) == dict.fromkeys(ids, "queued")
        assert backend.get_stats().pending_tasks == 1100


def test_a_task_that_changes_meanwhile_is_left_alone(server_database: Callable[[str], URL]) -> None:
    url = emptied(server_database("postgresql"))
    with SQLAlchemyBackend(url) as backend:
        first, second = backend.enqueue([new_row(), new_row()])
        answers: list[Any] = []
        statement = select(Task).where(Task.status == "queued")
        thread = threading.Thread(target=lambda: answers.append(SyncTaskQueue(backend).cancel(statement)))
        engine = create_engine(url)
        with engine.connect() as connection, connection.begin():
            connection.execute(update(Task).where(Task.id == first).values(status="running"))
            thread.start()
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                while not other.execute(text(waits)).all():
                    thread.join(0.01)
        thread.join()
        engine.dispose()
        assert answers == [{second: "cancelled"}]
        assert backend.get_task(first).cancel_requested is False  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (select(Result), "selects Result"),
        (select(Task, Result), "selects Task, Result"),
        (select(aliased(Task)), "not just tasks"),
        (select(text("1")), "not just tasks"),
        (select(func.count(Task.id)), "selects count"),
        (select(func.max(Task.id)), "selects max"),
        (select(Task).distinct(), "distinct, group_by or having"),
        (select(Task.id).group_by(Task.id), "distinct, group_by or having"),
        (delete(Task), "a Delete selects no tasks"),
        (text("SELECT * FROM tasks"), "a TextClause selects no tasks"),
    ],
)
def test_what_selects_no_tasks_is_refused(statement: Any, reason: str, tmp_path: Path) -> None:
    with SQLAlchemyBackend(f"sqlite:///{tmp_path / 'x.db'}") as backend:
        for verb in (SyncTaskQueue(backend).cancel, SyncTaskQueue(backend).retry):
            with pytest.raises(InvalidArgumentError, match=rf"{reason}.*select\(Task\)"):
                verb(statement)


def test_a_class_alone_is_no_statement() -> None:
    with pytest.raises(InvalidArgumentError, match="ids must be"):
        SyncTaskQueue(DictBackend({})).cancel(Task)  # type: ignore[call-overload]


def test_a_storage_without_sql_says_so() -> None:
    for verb in (SyncTaskQueue(DictBackend({})).cancel, SyncTaskQueue(DictBackend({})).retry):
        with pytest.raises(NotAvailableError, match="DictBackend cannot be asked in SQL"):
            verb(select(Task))


def test_a_statement_that_would_fetch_little_by_little_will_do(backend: SQLAlchemyBackend) -> None:
    ids = backend.enqueue([new_row() for _ in range(4)])
    wanted = select(Task).where(Task.id.in_(ids[:2])).execution_options(yield_per=1)
    assert set(backend.cancel_selected(wanted)) == set(ids[:2])
    wanted = select(Task).where(Task.id.in_(ids[2:])).execution_options(stream_results=True)
    assert set(asyncio.run(backend.acancel_selected(wanted))) == set(ids[2:])
