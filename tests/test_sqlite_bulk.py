"""Many rows in one statement on SQLite: nothing is lost, mixed up or invented, however many rows there are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import sitq
from listeners import listening
from sitq.claims import ClaimRequest, Outcome
from sitq.ids import new_id
from sitq.query_log import logger as query_logger

COUNTS = (1, 9, 10, 11, 99, 100, 101, 110, 255)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[sitq.SQLiteBackend]:
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend:
        yield backend


@pytest.mark.parametrize("count", COUNTS)
def test_each_row_keeps_its_own_values(backend: sitq.SQLiteBackend, count: int) -> None:
    queue = sitq.SyncTaskQueue(backend)
    sent = [(number % 3, {"n": number}) for number in range(count)]
    ids = queue.enqueue_many(divmod, sent)
    assert backend.list_all_tasks() == ids
    tasks = [backend.get_task(task_id) for task_id in ids]
    assert [queue.serializer.load_value(task.args) for task in tasks if task and task.args] == sent
    assert {task.queue for task in tasks if task} == {"default"}
    with sitq.SQLiteBackend(":memory:") as other:
        sitq.copy(backend, other)
        assert other.list_all_tasks() == ids


@pytest.mark.parametrize("count", COUNTS)
def test_rows_with_nothing_in_common_but_their_columns(backend: sitq.SQLiteBackend, count: int) -> None:
    queue = sitq.SyncTaskQueue(backend)
    rows = [
        {
            "id": new_id(),
            "function": b"%d" % number,
            "queue": f"queue {number % 7}",
            "priority": number,
            "max_retries": int(number % 10 in (0, 9)),
            "timeout": None if number % 2 else 1.5,
            "created_at": datetime(2026, 1, 1, second=number % 60, tzinfo=UTC),
        }
        for number in range(count)
    ]
    assert backend.enqueue(rows) == [row["id"] for row in rows]
    for row in rows:
        task = queue.get_task(row["id"])
        assert {name: getattr(task, name) for name in row} == row


def test_an_id_that_is_taken_refuses_the_whole_bulk(backend: sitq.SQLiteBackend) -> None:
    rows = [{"id": new_id(), "function": b"f"} for _ in range(150)]
    with pytest.raises(sitq.BackendError):
        backend.enqueue([*rows, rows[0]])
    assert backend.get_stats().total_tasks == 0


def test_results_in_bulk_take_the_place_of_earlier_ones(backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    ids = queue.enqueue_many(len, [((),)] * 120)
    request = ClaimRequest("worker", ["default"], 200, 30.0)
    for value in (b"first", b"second"):
        claims = backend.claim(request)
        at = datetime.now(UTC)
        outcomes = [
            Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=at, value=value + claim.id.encode())
            for claim in claims
        ]
        assert backend.finish(outcomes) == [True] * 120
        assert backend.finish([*outcomes, *outcomes]) == [True] * 240
        results = [backend.get_result(task_id) for task_id in ids]
        assert [result.value for result in results if result] == [value + task_id.encode() for task_id in ids]
        for task_id in ids:
            queue.retry(task_id)


def test_large_rows_go_one_by_one_so_that_the_driver_keeps_no_copies(backend: sitq.SQLiteBackend) -> None:
    executed: list[int] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith("INSERT"):
            executed.append(1 if many else len(parameters))

    queue = sitq.SyncTaskQueue(backend)
    payloads = [bytes([number]) * 20_000 for number in range(120)]
    with listening(backend.engine, "before_cursor_execute", note):
        ids = queue.enqueue_many(len, [(payload,) for payload in payloads])
    assert executed == [1, 1, 1]  # 100, 10 and 10 rows
    tasks = [queue.get_task(task_id) for task_id in ids]
    assert [queue.serializer.load_value(task.args)[0] for task in tasks if task.args] == payloads


def test_moments_that_are_equal_but_for_their_fold_stay_apart(backend: sitq.SQLiteBackend) -> None:
    zone = ZoneInfo("Europe/Berlin")
    moments = [datetime(2026, 10, 25, 2, 30, fold=number % 2, tzinfo=zone) for number in range(20)]
    rows = [{"id": new_id(), "function": b"f", "created_at": moment} for moment in moments]
    backend.enqueue(rows)
    created = [task.created_at for row in rows if (task := backend.get_task(row["id"]))]
    assert created == [moment.astimezone(UTC) for moment in moments]


def test_the_log_shows_no_payload_of_a_bulk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sitq.SQLiteBackend(tmp_path / "tasks.db", log_queries=True) as backend:
        caplog.set_level(logging.INFO, query_logger.name)
        sitq.SyncTaskQueue(backend).enqueue_many(len, [("secret",)] * 100)
    inserted = [record.getMessage() for record in caplog.records if record.getMessage().startswith("INSERT INTO tasks")]
    assert len(inserted) == 1
    assert "100 rows" in inserted[0]
    assert "secret" not in caplog.text
