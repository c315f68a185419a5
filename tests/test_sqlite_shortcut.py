"""A single enqueue on SQLite goes past SQLAlchemy as long as nobody listens, and does the same as the usual way."""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import base

import sitq
from listeners import listening

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
def backend(path: Path) -> Iterator[sitq.SQLiteBackend]:
    with sitq.SQLiteBackend(path) as backend:
        yield backend


def goes_past_sqlalchemy(queue: sitq.SyncTaskQueue) -> bool:
    """Enqueue; say whether no statement was executed by SQLAlchemy meanwhile."""
    executed: list[str] = []

    def note(frame: FrameType, what: str, argument: object) -> None:
        if what == "call" and frame.f_code is base.Connection.exec_driver_sql.__code__:
            executed.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        task_id = queue.enqueue(len, ())
    finally:
        sys.setprofile(None)
    assert queue.get_task(task_id).status == "queued"
    return not executed


@pytest.mark.parametrize("mode", MODES)
def test_it_is_open_in_every_mode(path: Path, mode: str) -> None:
    with sitq.SQLiteBackend(**{"database": path} | MODES[mode]) as backend:
        queue = sitq.SyncTaskQueue(backend)
        assert goes_past_sqlalchemy(queue)
        assert goes_past_sqlalchemy(queue)
        assert backend.get_stats().pending_tasks == 2


def test_it_stays_open_after_a_transaction_of_ones_own(backend: sitq.SQLiteBackend) -> None:
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


def test_it_is_shut_where_the_engine_echoes(backend: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("sqlalchemy.engine.Engine"), "handlers", [])  # SQLAlchemy adds one, to stay
    backend.engine.echo = True
    assert not goes_past_sqlalchemy(sitq.SyncTaskQueue(backend))


@pytest.mark.parametrize(
    "name", ["begin", "commit", "rollback", "before_cursor_execute", "after_cursor_execute", "handle_error"]
)
def test_it_is_shut_while_somebody_listens_to_the_engine(backend: sitq.SQLiteBackend, name: str) -> None:
    queue = sitq.SyncTaskQueue(backend)
    assert goes_past_sqlalchemy(queue)
    with listening(backend.engine, name, lambda *arguments: None):
        assert not goes_past_sqlalchemy(queue)


def test_it_is_shut_for_a_dialect_that_somebody_listens_to(backend: sitq.SQLiteBackend) -> None:
    event.listen(backend.engine.dialect, "do_execute", lambda *arguments: None)
    assert not goes_past_sqlalchemy(sitq.SyncTaskQueue(backend))


def test_who_listens_to_connections_hears_of_a_single_enqueue(backend: sitq.SQLiteBackend) -> None:
    heard: list[str] = []
    with listening(Connection, "before_cursor_execute", lambda *call: heard.append(call[2])):
        sitq.SyncTaskQueue(backend).enqueue(len, ())
    assert [statement.split()[0] for statement in heard].count("INSERT") == 1


def test_who_listens_to_each_new_connection_hears_of_a_single_enqueue(backend: sitq.SQLiteBackend) -> None:
    heard: list[str] = []

    def listen(connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", lambda *call: heard.append(call[2]))

    with listening(backend.engine, "engine_connect", listen):
        sitq.SyncTaskQueue(backend).enqueue(len, ())
    assert [statement.split()[0] for statement in heard].count("INSERT") == 1


# What goes wrong.


def test_a_refused_task_leaves_neither_a_row_nor_a_lock(path: Path, backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
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
    assert backend.get_stats().total_tasks == 2


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


def test_a_serializer_that_gives_no_bytes_is_told_so(backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend, serializer=TextSerializer())
    with pytest.raises(sitq.SerializationError, match="must give bytes, not a value of type str"):
        queue.enqueue(len, ())
    with pytest.raises(sitq.SerializationError, match="must give bytes"):
        queue.enqueue_many(len, [("a",), ("b",)])
    assert backend.list_all_tasks() == []
