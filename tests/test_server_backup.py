"""Backups of databases on servers: SQLite files of one moment, that come up in any kind of database."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine

import sitq
from databases import empty_database
from sitq import BackendError, DatabaseLockedError, SQLAlchemyBackend, SQLiteBackend
from sitq.ids import new_id
from sitq.testing.records import completed, new_row, request
from test_copying import content, fill

DRIVERS = ("postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "mariadb+asyncmy")
SYNC_DRIVERS = ("postgresql+psycopg", "mariadb+pymysql")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def server(driver: str, stack: ExitStack, **options: Any) -> SQLAlchemyBackend:
    url = stack.enter_context(empty_database(driver.partition("+")[0], Path()))
    return stack.enter_context(SQLAlchemyBackend(url.set(drivername=driver), **options))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_backup_comes_back(driver: str, stack: ExitStack, tmp_path: Path) -> None:
    backend = server(driver, stack)
    fill(backend)
    before = content(backend)
    told: list[tuple[int, int]] = []
    backend.backup(tmp_path / "saved.db", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["saved.db"]

    backend.enqueue([new_row()])
    backend.resume_queue("emails")
    backend.restore(tmp_path / "saved.db")
    assert columns_but_claims(content(backend)) == columns_but_claims(before)
    assert backend.paused_queues() == ["emails"]


def columns_but_claims(rows: list[Any]) -> list[Any]:
    """Restoring moves the number of claims on, so that no claim from before holds."""
    return [({**task, "claim_count": None}, result) for task, result in rows]


@pytest.mark.parametrize("kind", ["postgresql+psycopg", "mariadb+pymysql"])
def test_a_backup_of_any_backend_comes_up_in_any_other(kind: str, stack: ExitStack, tmp_path: Path) -> None:
    old = stack.enter_context(SQLiteBackend(tmp_path / "tasks.db"))
    fill(old)
    old.backup(tmp_path / "first.db")
    on_server = server(kind, stack)
    on_server.restore(tmp_path / "first.db")
    on_server.backup(tmp_path / "second.db")
    new = stack.enter_context(SQLiteBackend(tmp_path / "new.db"))
    new.restore(tmp_path / "second.db")
    assert columns_but_claims(content(new)) == columns_but_claims(content(old))
    assert new.paused_queues() == ["emails"]


@pytest.mark.parametrize("driver", SYNC_DRIVERS)
def test_a_backup_is_of_one_moment(driver: str, stack: ExitStack, tmp_path: Path) -> None:
    backend = server(driver, stack)
    backend.enqueue([new_row(args=bytes(100)) for _ in range(2500)])
    moved = False

    def change(done: int, total: int) -> None:
        nonlocal moved
        if not moved:
            moved = True
            backend.enqueue([new_row()])
            for claim in backend.claim(request(limit=2500)):
                backend.finish([completed(claim)])
                break

    backend.backup(tmp_path / "saved.db", progress=change)
    assert moved
    with SQLiteBackend(tmp_path / "saved.db", readonly=True) as saved:
        stats = saved.get_stats()
    assert (stats.total_tasks, stats.pending_tasks) == (2500, 2500)
    assert backend.get_stats().running_tasks == 2499


@pytest.mark.parametrize("driver", SYNC_DRIVERS)
def test_running_tasks_come_up_queued_and_their_workers_claims_hold_no_longer(
    driver: str, stack: ExitStack, tmp_path: Path
) -> None:
    backend = server(driver, stack)
    backend.enqueue([new_row(queue="a"), new_row()])
    (claim,) = backend.claim(request(queues=["a"]))
    backend.backup(tmp_path / "saved.db")
    with sqlite3.connect(tmp_path / "saved.db") as saved:
        assert saved.execute("SELECT count(*) FROM tasks WHERE status = 'running'").fetchone() == (1,)
    backend.restore(tmp_path / "saved.db", paused=True)
    assert backend.paused_queues() == ["a", "default"]
    assert backend.get_stats().pending_tasks == 2
    assert backend.finish([completed(claim)]) == [False]
    backend.resume_queue("a")
    (again,) = backend.claim(request(queues=["a"]))
    assert again.id == claim.id


@pytest.mark.parametrize("driver", SYNC_DRIVERS)
def test_a_restore_is_whole_or_not_at_all(driver: str, stack: ExitStack, tmp_path: Path) -> None:
    backend = server(driver, stack)
    fill(backend)
    backend.backup(tmp_path / "saved.db")
    backend.enqueue([new_row()])
    before = content(backend)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.restore(tmp_path / "saved.db", progress=interrupt)
    assert content(backend) == before

    whole = (tmp_path / "saved.db").read_bytes()
    (tmp_path / "damaged.db").write_bytes(whole[:8192] + bytes(4096) + whole[12288:])
    with pytest.raises(BackendError, match="damaged"):
        backend.restore(tmp_path / "damaged.db")
    with pytest.raises(BackendError, match="does not exist"):
        backend.restore(tmp_path / "nothing.db")
    assert content(backend) == before


@pytest.mark.parametrize("driver", SYNC_DRIVERS)
def test_nobody_writes_in_the_middle_of_a_restore(driver: str, stack: ExitStack, tmp_path: Path) -> None:
    backend = server(driver, stack)
    backend.enqueue([new_row() for _ in range(5)])
    backend.backup(tmp_path / "saved.db")
    other = stack.enter_context(SQLAlchemyBackend(backend.engine.url, connection_timeout=1))
    other.initialize()
    refused: list[BackendError] = []
    seen: list[int] = []

    def write_meanwhile(done: int, total: int) -> None:
        seen.append(other.get_stats().total_tasks)
        with pytest.raises(DatabaseLockedError) as raised:
            other.enqueue([new_row()])
        refused.append(raised.value)

    backend.enqueue([new_row()])
    backend.restore(tmp_path / "saved.db", progress=write_meanwhile)
    assert refused
    assert set(seen) == {6}, "until the commit others see what was there before"
    assert other.get_stats().total_tasks == 5


@pytest.mark.parametrize("driver", SYNC_DRIVERS)
def test_a_backup_that_fails_leaves_the_one_before(driver: str, stack: ExitStack, tmp_path: Path) -> None:
    backend = server(driver, stack)
    backend.enqueue([new_row() for _ in range(3)])
    backend.backup(tmp_path / "saved.db")
    whole = (tmp_path / "saved.db").read_bytes()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.backup(tmp_path / "saved.db", progress=interrupt)
    assert (tmp_path / "saved.db").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["saved.db"]
    with pytest.raises(BackendError, match="folder"):
        backend.backup(tmp_path / "no" / "folder.db")


def test_waiters_learn_of_a_restore(stack: ExitStack, tmp_path: Path) -> None:
    backend = server("postgresql+psycopg", stack)
    backend.enqueue([new_row()])
    backend.backup(tmp_path / "saved.db")
    (claim,) = backend.claim(request())
    backend.finish([completed(claim)])
    told = threading.Event()
    backend.wakeups.notify_all = told.set  # type: ignore[method-assign]
    backend.restore(tmp_path / "saved.db")
    assert told.is_set()


def test_an_app_s_own_models_can_be_backed_up(stack: ExitStack, tmp_path: Path) -> None:
    from sqlalchemy.orm import DeclarativeBase

    from sitq.models import Models, QueueStateMixin, ResultMixin, TaskMixin

    class AppBase(DeclarativeBase):
        pass

    class AppTask(TaskMixin, AppBase):
        __tablename__ = "Order of tasks"

    class AppResult(ResultMixin, AppBase):
        __tablename__ = "app_results"

    class AppQueue(QueueStateMixin, AppBase):
        __tablename__ = "app_queues"

    url = stack.enter_context(empty_database("postgresql", Path()))
    engine = create_engine(url, poolclass=NullPool)
    AppBase.metadata.create_all(engine)
    models = Models(AppTask, AppResult, AppQueue)
    backend = stack.enter_context(SQLAlchemyBackend(engine, models=models))
    backend.enqueue([new_row(id=new_id(), name="app")])
    backend.backup(tmp_path / "saved.db")
    with SQLiteBackend(tmp_path / "saved.db") as saved:
        assert [task.name for task in saved.list_tasks()] == ["app"]
    backend.restore(tmp_path / "saved.db")
    assert [task.name for task in backend.list_tasks()] == ["app"]
    with SQLiteBackend(tmp_path / "target.db") as target:
        assert sitq.copy(backend, target).complete
