"""A write that is one statement goes past SQLAlchemy as long as nobody listens, and does the same as the usual way."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import base

import sitq
from databases import empty_database
from listeners import listening
from sitq.claims import Claim, ClaimRequest, Outcome

MODES: dict[str, dict[str, Any]] = {
    "WAL": {},
    "DELETE": {"journal_mode": "DELETE"},
    "memory": {"database": ":memory:"},
    "encrypted": {"encryption_key": "sesame, open"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def sqlite_backend(path: Path) -> Iterator[sitq.SQLiteBackend]:
    with sitq.SQLiteBackend(path) as backend:
        yield backend


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sitq.SQLAlchemyBackend]:
    with empty_database(request.param, tmp_path) as url, sitq.open_backend(url) as backend:
        yield backend


def goes_past_sqlalchemy(queue: sitq.SyncTaskQueue) -> bool:
    """Enqueue; say whether the task's statement was not executed by SQLAlchemy."""
    executed: list[str] = []

    def note(frame: FrameType, what: str, argument: object) -> None:
        if what == "call" and frame.f_code is base.Connection.exec_driver_sql.__code__:
            executed.append(frame.f_locals["statement"].split()[0])

    sys.setprofile(note)
    try:
        task_id = queue.enqueue(len, ())
    finally:
        sys.setprofile(None)
    assert queue.get_task(task_id).status == "queued"
    return "INSERT" not in executed


@pytest.mark.parametrize("mode", MODES)
def test_it_is_open_in_every_mode(path: Path, mode: str) -> None:
    with sitq.SQLiteBackend(**{"database": path} | MODES[mode]) as backend:
        queue = sitq.SyncTaskQueue(backend)
        assert goes_past_sqlalchemy(queue)
        assert goes_past_sqlalchemy(queue)
        assert backend.get_stats().pending_tasks == 2


def test_it_stays_open_after_a_transaction_of_ones_own(backend: sitq.SQLAlchemyBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    with backend.engine.begin() as connection:
        queue.enqueue_in(connection, len, ())
    assert goes_past_sqlalchemy(queue)


def test_it_is_shut_where_statements_are_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sitq.SQLiteBackend(path, log_queries=True) as backend, caplog.at_level(logging.INFO, "sitq.sql"):
        assert not goes_past_sqlalchemy(sitq.SyncTaskQueue(backend))
    assert any("INSERT" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("logger", ["sqlalchemy.engine", "sqlalchemy.engine.Engine"])
def test_it_is_shut_where_sqlalchemy_logs(path: Path, caplog: pytest.LogCaptureFixture, logger: str) -> None:
    with caplog.at_level(logging.INFO, logger), sitq.SQLiteBackend(path) as backend:
        assert not goes_past_sqlalchemy(sitq.SyncTaskQueue(backend))
    assert any("INSERT" in record.getMessage() for record in caplog.records)


def test_it_is_shut_where_the_engine_echoes(backend: sitq.SQLAlchemyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("sqlalchemy.engine.Engine"), "handlers", [])  # SQLAlchemy adds one, to stay
    backend.engine.echo = True
    assert not goes_past_sqlalchemy(sitq.SyncTaskQueue(backend))


@pytest.mark.parametrize(
    "name", ["begin", "commit", "rollback", "before_cursor_execute", "after_cursor_execute", "handle_error"]
)
def test_it_is_shut_while_somebody_listens_to_the_engine(backend: sitq.SQLAlchemyBackend, name: str) -> None:
    queue = sitq.SyncTaskQueue(backend)
    assert goes_past_sqlalchemy(queue)
    with listening(backend.engine, name, lambda *arguments: None):
        assert not goes_past_sqlalchemy(queue)


def test_it_is_shut_for_a_dialect_that_somebody_listens_to(backend: sitq.SQLAlchemyBackend) -> None:
    event.listen(backend.engine.dialect, "do_execute", lambda *arguments: None)
    assert not goes_past_sqlalchemy(sitq.SyncTaskQueue(backend))


def test_who_listens_to_connections_hears_of_a_single_enqueue(backend: sitq.SQLAlchemyBackend) -> None:
    heard: list[str] = []
    with listening(Connection, "before_cursor_execute", lambda *call: heard.append(call[2])):
        sitq.SyncTaskQueue(backend).enqueue(len, ())
    assert [statement.split()[0] for statement in heard].count("INSERT") == 1


def test_who_listens_to_each_new_connection_hears_of_a_single_enqueue(backend: sitq.SQLAlchemyBackend) -> None:
    heard: list[str] = []

    def listen(connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", lambda *call: heard.append(call[2]))

    with listening(backend.engine, "engine_connect", listen):
        sitq.SyncTaskQueue(backend).enqueue(len, ())
    assert [statement.split()[0] for statement in heard].count("INSERT") == 1


@contextmanager
def worker_claims(backend: sitq.SQLAlchemyBackend) -> Iterator[Callable[[list[Outcome]], list[Claim]]]:
    """What a worker's round gives, by the door that workers use."""
    request = ClaimRequest("worker", ["default"], 10, 30.0)
    with asyncio.Runner() as runner:

        def play(outcomes: list[Outcome]) -> list[Claim]:
            held, claims = runner.run(backend.afinish_and_claim(outcomes, request))
            assert all(held)
            return claims

        yield play
        runner.run(backend.aclose())


def test_rounds_of_a_worker_are_the_same_by_either_way(backend: sitq.SQLAlchemyBackend) -> None:
    """On PostgreSQL these go past SQLAlchemy, too."""
    queue = sitq.SyncTaskQueue(backend)
    now = datetime.now(UTC)

    def play(rounds: Callable[[list[Outcome]], list[Claim]]) -> list[tuple[Any, ...]]:
        queue.options(priority=2, timeout=1.5, max_retries=3, retry_delay=1).enqueue(len, "abc")
        queue.enqueue(divmod, 7, 2)
        claims = rounds([])
        ended = [Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=now, value=b"1") for claim in claims]
        assert rounds(ended) == []
        assert [queue.get_task(claim.id).status for claim in claims] == ["completed"] * 2
        assert all(claim.created_at is not None and claim.created_at.tzinfo is UTC for claim in claims)
        return [claim._replace(id="", created_at=None)[1:] for claim in claims]

    with worker_claims(backend) as rounds:
        alone = play(rounds)
        with listening(backend.engine, "commit", lambda *arguments: None):
            assert play(rounds) == alone


# What goes wrong.


def test_a_refused_task_leaves_neither_a_row_nor_a_lock(path: Path, sqlite_backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(sqlite_backend)
    queue.enqueue(len, ())
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("CREATE TRIGGER refuse BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, 'not today'); END")
        for _ in range(2):
            with pytest.raises(sitq.BackendError, match="not today") as caught:
                queue.enqueue(len, ())
            assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        other.execute("DROP TRIGGER refuse")
    other.close()
    assert goes_past_sqlalchemy(queue)
    assert sqlite_backend.get_stats().total_tasks == 2


def test_a_server_that_hangs_up_amid_a_statement_is_told_of_by_the_error_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    function = "CREATE FUNCTION hang_up() RETURNS trigger AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); "
    function += "PERFORM pg_sleep(1); RETURN NEW; END $$ LANGUAGE plpgsql"
    trigger = "CREATE TRIGGER hang_up BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION hang_up()"
    with empty_database("postgresql", tmp_path) as url, sitq.open_backend(url) as backend:
        queue = sitq.SyncTaskQueue(backend)
        assert goes_past_sqlalchemy(queue)
        with backend.engine.begin() as connection:
            connection.exec_driver_sql(function)
            connection.exec_driver_sql(trigger)
        with pytest.raises(sitq.DatabaseUnavailableError):
            queue.enqueue(len, ())
        with backend.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER hang_up ON tasks")
        assert goes_past_sqlalchemy(queue)
        assert backend.get_stats().total_tasks == 2
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_commit_that_is_refused_leaves_nothing(path: Path) -> None:
    with sitq.SQLiteBackend(path, journal_mode="DELETE", connection_timeout=0.2) as backend:
        queue = sitq.SyncTaskQueue(backend)
        queue.enqueue(len, ())
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tasks").fetchall()
        with pytest.raises(sitq.DatabaseLockedError):
            queue.enqueue(len, ())
        reader.close()
        assert goes_past_sqlalchemy(queue)
        assert backend.get_stats().total_tasks == 2


class TextSerializer(sitq.CloudpickleSerializer):
    """Gives a text where bytes are due."""

    def dump_value(self, value: object) -> Any:
        return repr(value)


def test_a_serializer_that_gives_no_bytes_is_told_so(backend: sitq.SQLAlchemyBackend) -> None:
    queue = sitq.SyncTaskQueue(backend, serializer=TextSerializer())
    with pytest.raises(sitq.SerializationError, match="must give bytes, not a value of type str"):
        queue.enqueue(len, ())
    with pytest.raises(sitq.SerializationError, match="must give bytes"):
        queue.enqueue_many(len, [("a",), ("b",)])
    assert backend.list_all_tasks() == []
