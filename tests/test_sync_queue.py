from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import by_hand
from dict_backend import DictBackend
from sitq import endings
from sitq.backends.base import BaseBackend
from sitq.exceptions import (
    InvalidArgumentError,
    ResultTimeoutError,
    SerializationError,
    TaskCancelledError,
    TaskFailedError,
    TaskNotFoundError,
)
from sitq.serialization import JSONSerializer
from sitq.sync import SyncTaskQueue
from sitq.tasks import task

LONG = 30.0  # seconds; nothing waits for so long unless it is broken


def add(x: int, y: int = 0) -> int:
    return x + y


def fail(message: str) -> None:
    raise ValueError(message)


@task(priority=7, queue="mail")
def send(user: str) -> str:
    return f"sent to {user}"


@pytest.fixture
def queue(backend: BaseBackend) -> SyncTaskQueue:
    return SyncTaskQueue(backend)


@contextmanager
def signal_look(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An event that is set when somebody has looked for endings."""
    looked, look = threading.Event(), backend.get_statuses

    def look_and_tell(task_ids: Any) -> Any:
        statuses = look(task_ids)
        looked.set()
        return statuses

    with monkeypatch.context() as patch:
        patch.setattr(backend, "get_statuses", look_and_tell)
        yield looked


def test_a_task_is_enqueued_run_and_its_value_read(backend: BaseBackend, queue: SyncTaskQueue):
    task_id = queue.enqueue(add, 1, y=2)
    found = queue.get_task(task_id)
    assert (found.id, found.status, found.name) == (task_id, "queued", "test_sync_queue.add")
    assert by_hand.run_one(backend) == task_id
    assert queue.result(task_id) == 3
    result = queue.get_result(task_id, timeout=0)
    assert result is not None
    assert queue.unwrap(result) == 3


def test_options_go_before_those_of_the_decorator(queue: SyncTaskQueue):
    eta = datetime.now(UTC) + timedelta(hours=1)
    found = queue.get_task(queue.options(priority=9, eta=eta).options(timeout=2).enqueue(send, "ada"))
    assert (found.priority, found.queue, found.due_at, found.timeout) == (9, "mail", eta, 2.0)


def test_enqueue_many_reads_rows_as_it_writes(
    backend: BaseBackend, queue: SyncTaskQueue, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sitq.sync.CHUNK", 4)
    standing: list[int] = []

    def rows() -> Iterator[dict[str, int]]:
        for number in range(9):
            standing.append(len(backend.list_tasks()))
            yield {"x": number}

    ids = queue.enqueue_many(add, rows())
    assert standing == [0, 0, 0, 0, 4, 4, 4, 4, 8]
    assert by_hand.run_all(backend) == ids


def test_a_refused_chunk_leaves_nothing_and_says_what_stands(queue: SyncTaskQueue, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InvalidArgumentError):
        queue.enqueue_many(add, [(1,), ()])
    assert queue.list() == []
    monkeypatch.setattr("sitq.sync.CHUNK", 4)
    with pytest.raises(SerializationError) as caught:
        queue.enqueue_many(add, [*[(number,) for number in range(5)], (threading.Lock(),)])
    assert "The first 4 rows had been enqueued by then, and stay so." in caught.value.__notes__
    assert len(queue.list()) == 4


def test_list_gives_what_matches_newest_first(backend: BaseBackend, queue: SyncTaskQueue):
    done = queue.enqueue(add, 1)
    by_hand.run_one(backend)
    mail = queue.enqueue(send, "ada")
    assert [found.id for found in queue.list()] == [mail, done]
    assert [found.id for found in queue.list(status="completed")] == [done]
    assert [found.id for found in queue.list(queue="mail", name="test_sync_queue.send", limit=1)] == [mail]


def test_an_unknown_id_is_not_found(queue: SyncTaskQueue):
    for attempt in (
        lambda: queue.get_task("unknown"),
        lambda: queue.get_result("unknown", timeout=0),
        lambda: queue.result("unknown"),
        lambda: next(queue.as_completed(["unknown"])),
    ):
        with pytest.raises(TaskNotFoundError, match="'unknown'"):
            attempt()


def test_result_raises_what_happened(backend: BaseBackend, queue: SyncTaskQueue):
    bad = queue.enqueue(fail, "no luck")
    by_hand.run_one(backend)
    with pytest.raises(TaskFailedError, match="no luck") as failed:
        queue.result(bad)
    assert "raise ValueError(message)" in (failed.value.traceback or "")
    withdrawn = queue.enqueue(add, 1)
    by_hand.cancel_one(backend, "withdrawn")
    with pytest.raises(TaskCancelledError) as cancelled:
        queue.result(withdrawn)
    assert cancelled.value.reason == "withdrawn"


def test_an_ended_task_without_a_stored_result_still_has_one(backend: BaseBackend, queue: SyncTaskQueue):
    failed, completed = queue.enqueue_many(add, [(1,), (2,)])
    backend.update_task_status(failed, "failed")
    backend.update_task_status(completed, "completed")
    with pytest.raises(TaskFailedError, match="no result was stored"):
        queue.result(failed)
    assert queue.result(completed) is None


def test_time_can_be_up(queue: SyncTaskQueue):
    task_id = queue.enqueue(add, 1)
    assert queue.get_result(task_id, timeout=0) is None
    assert queue.get_result(task_id, timeout=0.02) is None
    with pytest.raises(ResultTimeoutError, match=task_id):
        queue.result(task_id, timeout=timedelta(milliseconds=20))


def test_an_ending_in_this_process_wakes_the_waiter(
    backend: BaseBackend, queue: SyncTaskQueue, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(endings, "POLL", 10 * LONG)
    task_id = queue.enqueue(add, 1)
    with ThreadPoolExecutor() as threads, signal_look(backend, monkeypatch) as looked:
        waiting = threads.submit(queue.result, task_id)
        assert looked.wait(LONG)
        by_hand.run_one(backend)
        assert waiting.result(LONG) == 1


def test_an_ending_that_nobody_tells_of_is_found_by_looking(
    backend: BaseBackend, queue: SyncTaskQueue, monkeypatch: pytest.MonkeyPatch
):
    task_id = queue.enqueue(add, 1)
    monkeypatch.setattr(backend.wakeups, "notify", lambda topics: None)
    with ThreadPoolExecutor() as threads, signal_look(backend, monkeypatch) as looked:
        waiting = threads.submit(queue.result, task_id)
        assert looked.wait(LONG)
        by_hand.run_one(backend)
        assert waiting.result(LONG) == 1


def test_as_completed_gives_each_result_once_as_it_ends(backend: BaseBackend, queue: SyncTaskQueue):
    late = queue.options(queue="late").enqueue(add, 1)
    soon = queue.enqueue(add, 2)
    results = queue.as_completed([late, soon, late], timeout=LONG)
    assert by_hand.run_one(backend) == soon
    assert next(results).task_id == soon
    assert by_hand.run_one(backend, "late") == late
    assert [queue.unwrap(result) for result in results] == [1]
    assert list(queue.as_completed([])) == []


def test_as_completed_gives_what_there_is_before_time_is_up(backend: BaseBackend, queue: SyncTaskQueue):
    done, waiting = queue.enqueue_many(add, [(1,), (2,)])
    by_hand.run_one(backend)
    results = queue.as_completed([waiting, done], timeout=0)
    assert next(results).task_id == done
    with pytest.raises(ResultTimeoutError, match=waiting):
        next(results)


def test_a_paused_queue_gives_nothing_until_it_is_resumed(backend: BaseBackend, queue: SyncTaskQueue):
    task_id = queue.enqueue(add, 1)
    queue.pause("default")
    assert queue.paused() == ["default"]
    assert by_hand.run_one(backend) is None
    queue.resume("default")
    assert queue.paused() == []
    assert by_hand.run_one(backend) == task_id


def test_it_works_inside_a_running_event_loop(backend: BaseBackend, queue: SyncTaskQueue):
    async def main() -> None:
        task_id = queue.enqueue(add, 1)
        by_hand.run_one(backend)
        assert queue.result(task_id) == 1
        assert [result.task_id for result in queue.as_completed([task_id])] == [task_id]

    asyncio.run(main())


def test_threads_share_a_queue(queue: SyncTaskQueue):
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda number: queue.enqueue(add, number), range(80)))
    assert len(set(ids)) == 80
    assert {found.id for found in queue.list()} == set(ids)


def test_the_queues_serializer_writes_and_reads(backend: BaseBackend):
    queue = SyncTaskQueue(backend, serializer=JSONSerializer())
    task_id = queue.enqueue(add, 1)
    assert queue.get_task(task_id).function == b"test_sync_queue:add"
    by_hand.run_one(backend, serializer=JSONSerializer())
    assert queue.result(task_id) == 1


def test_only_a_backend_of_its_own_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with SyncTaskQueue() as queue:
        task_id = queue.enqueue(add, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["sitq.db"]  # closing folded the write-ahead log
    with SyncTaskQueue() as queue:
        assert queue.get_task(task_id).name == "test_sync_queue.add"

    closed = []

    class Watched(DictBackend):
        def close(self) -> None:
            closed.append(self)

    with SyncTaskQueue(Watched()) as queue:
        queue.enqueue(add, 1)
    assert closed == []
