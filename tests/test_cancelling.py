"""Tasks that are not to run, or not to go on: cancelled by hand, or expired."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from dict_backend import DictBackend
from sitq import (
    BaseBackend,
    CancelResult,
    SQLiteBackend,
    SyncTaskQueue,
    TaskCancelledError,
    TaskNotFoundError,
    TaskQueue,
    Worker,
    current_task,
)
from working import LONG, at_work, gate, note, ran, reset, run, started, wait_at_gate, wait_at_gate_later, wait_started


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


def wait_until_cancelled(then: Any) -> Any:
    task = current_task()
    started.release()
    while not task.cancelled:
        threading.Event().wait(0.002)
    ran.append(task.reason)
    if isinstance(then, Exception):
        raise then
    return then


async def wait_for_ever() -> None:
    started.release()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        ran.append("cleaned up")
        raise


async def never_gives_in() -> str:
    started.release()
    for _ in range(2):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            break
    return "a value nobody wants"


@pytest.mark.parametrize("function", [wait_for_ever, never_gives_in])
def test_a_running_async_task_is_cancelled_at_once(backend: BaseBackend, function: Any) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=3).enqueue(function)
            await wait_started(1)
            assert await queue.cancel(task_id, "no longer wanted") is CancelResult.REQUESTED
            with pytest.raises(TaskCancelledError, match="no longer wanted"):
                await queue.result(task_id, timeout=LONG)
            assert (await queue.get_task(task_id)).retry_count == 0
        assert ran == (["cleaned up"] if function is wait_for_ever else [])

    run(scenario)


@pytest.mark.parametrize("error", [ValueError("stopped"), TimeoutError()])
def test_a_function_in_a_thread_sees_that_it_is_to_end(
    backend: BaseBackend, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=3).enqueue(wait_until_cancelled, error)
            await wait_started(1)
            assert await queue.cancel([task_id], "enough") == {task_id: CancelResult.REQUESTED}
            with pytest.raises(TaskCancelledError, match="enough"):
                await queue.result(task_id, timeout=LONG)
            assert ran == ["enough"]

    with caplog.at_level("INFO", logger="sitq.worker"):
        run(scenario)
    assert "task cancelled" in caplog.messages
    assert "task retried" not in caplog.messages


def test_a_function_in_a_thread_that_goes_on_completes(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(wait_until_cancelled, "done all the same")
            await wait_started(1)
            await queue.cancel(task_id)
            assert await queue.result(task_id, timeout=LONG) == "done all the same"
            assert (await queue.get_task(task_id)).status == "completed"
            assert await queue.cancel(task_id) is CancelResult.ENDED

    run(scenario)


def test_other_tasks_are_left_alone(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            others = [await queue.enqueue(each, 1) for each in (wait_at_gate, wait_at_gate_later)]
            cancelled = await queue.enqueue(wait_for_ever)
            await wait_started(3)
            await queue.cancel(cancelled)
            with pytest.raises(TaskCancelledError):
                await queue.result(cancelled, timeout=LONG)
            gate.set()
            assert [await queue.result(task_id, timeout=LONG) for task_id in others] == [1, 1]

    run(scenario)


def test_a_waiting_task_never_runs_and_who_waits_for_it_is_told(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            ids = await queue.enqueue_many(note, [(1,), (2,)])
            waiting = asyncio.create_task(queue.result(ids[0], timeout=LONG))
            await asyncio.sleep(0)
            assert await queue.cancel(iter([*ids, "unknown"]), "changed my mind") == {
                ids[0]: "cancelled",
                ids[1]: "cancelled",
                "unknown": "unknown",
            }
            with pytest.raises(TaskCancelledError, match="changed my mind"):
                await waiting
            async with Worker(backend):
                assert await queue.result(await queue.enqueue(note, 3), timeout=LONG) == 3
            assert ran == [3]
            with pytest.raises(TaskNotFoundError):
                await queue.cancel("unknown")

    run(scenario)


def test_a_worker_hears_of_another_process(tmp_path: Path) -> None:
    """Another backend object shares no news with the worker's, as another process does not."""

    async def scenario() -> None:
        async with at_work(SQLiteBackend(tmp_path / "tasks.db")) as queue:
            ids = [await queue.enqueue(wait_for_ever), await queue.enqueue(wait_until_cancelled, ValueError())]
            await wait_started(2)
            with SQLiteBackend(tmp_path / "tasks.db") as other:
                results = await asyncio.to_thread(SyncTaskQueue(other).cancel, ids, "from afar")
            assert set(results.values()) == {CancelResult.REQUESTED}
            for task_id in ids:
                with pytest.raises(TaskCancelledError, match="from afar"):
                    await queue.result(task_id, timeout=LONG)

    run(scenario)


def test_a_cancelled_task_whose_worker_stops_does_not_come_back(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            worker = Worker(backend)
            await worker.start()
            task_id = await queue.enqueue(wait_for_ever)
            await wait_started(1)
            await backend.acancel([task_id], "enough")
            await worker.stop()
            assert (await queue.get_task(task_id)).status == "cancelled"

    run(scenario)


# Expiry.


def test_a_task_that_nobody_began_in_time_is_cancelled(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            late = await queue.options(expires_in=0.001).enqueue(note, "late")
            timely = await queue.options(expires_in=3600).enqueue(note, "timely")
            await asyncio.sleep(0.01)
            async with Worker(backend):
                assert await queue.result(timely, timeout=LONG) == "timely"
                with pytest.raises(TaskCancelledError, match="expired: no worker began it in time"):
                    await queue.result(late, timeout=LONG)
            assert ran == ["timely"]

    run(scenario)


def test_the_time_to_begin_counts_from_when_the_task_is_due() -> None:
    async def scenario() -> None:
        backend = DictBackend()
        task_id = await TaskQueue(backend).options(delay=60, expires_in=10).enqueue(note, 1)
        task = await TaskQueue(backend).get_task(task_id)
        assert task.due_at is not None
        assert task.expires_at is not None
        assert (task.expires_at - task.due_at).total_seconds() == 10

    run(scenario)
