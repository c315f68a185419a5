"""Tasks that failed: found, put back, and deleted in the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dict_backend import DictBackend
from sitq import (
    BaseBackend,
    NotAvailableError,
    RetryResult,
    SQLAlchemyBackend,
    SyncTaskQueue,
    TaskFailedError,
    TaskNotFoundError,
    TaskQueue,
    Worker,
)
from sitq.failures import HISTORY_LENGTH, read_failures
from working import LONG, at_work, fail_until, note, raise_it, reset, run, started, wait_at_gate, wait_started


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


def test_a_failed_task_is_found_put_back_and_done_again(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(fail_until, "second", 2)
            with pytest.raises(TaskFailedError, match="not yet"):
                await queue.result(task_id, timeout=LONG)
            [found] = await queue.list(status="failed")
            assert found.id == task_id
            assert await queue.retry(task_id) is RetryResult.QUEUED
            assert await queue.result(task_id, timeout=LONG) == 2
            task = await queue.get_task(task_id)
            assert (task.status, task.error_message) == ("completed", None)
            assert len(read_failures(task.errors)) == 1
            assert await queue.retry(iter([task_id, "unknown"])) == {task_id: "queued", "unknown": "unknown"}
            with pytest.raises(TaskNotFoundError):
                await queue.retry("unknown")

    run(scenario)


def test_a_task_put_back_has_all_its_retries_again_and_its_history_stays_bounded() -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            task_id = await queue.options(max_retries=3, retry_delay=0).enqueue(raise_it, ValueError)
            for round_ in range(1, 5):
                assert (await queue.get_result(task_id, timeout=LONG)) is not None
                task = await queue.get_task(task_id)
                assert (task.status, task.retry_count) == ("failed", 3)
                assert len(read_failures(task.errors)) == min(4 * round_, HISTORY_LENGTH)
                assert await queue.retry(task_id) == "queued"

    run(scenario)


def test_a_running_task_is_not_put_back(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(wait_at_gate, 1)
            await wait_started(1)
            assert await queue.retry(task_id) is RetryResult.UNFINISHED
            assert not started.acquire(blocking=False)
            from working import gate

            gate.set()
            assert await queue.result(task_id, timeout=LONG) == 1

    run(scenario)


def test_a_key_that_another_holds_by_now_keeps_the_task_from_coming_back(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            unique = queue.options(unique_key="k")
            first = await unique.enqueue(note, 1)
            await queue.cancel(first)
            second = await unique.enqueue(note, 2)
            assert await queue.retry(first) is RetryResult.DUPLICATE
            await queue.cancel(second)
            assert await queue.retry([first, second]) == {first: "queued", second: "duplicate"}
            assert await unique.enqueue(note, 3) == first
            async with Worker(backend):
                assert await queue.result(first, timeout=LONG) == 1

    run(scenario)


def test_what_ended_long_ago_is_deleted(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            failed, done = await queue.enqueue(raise_it, ValueError), await queue.enqueue(note, 1)
            for task_id in (failed, done):
                await queue.get_result(task_id, timeout=LONG)
            if not isinstance(backend, SQLAlchemyBackend):
                with pytest.raises(NotAvailableError, match="DictBackend cannot delete tasks"):
                    await queue.purge(older_than=0)
                return
            assert await queue.purge(older_than=timedelta(hours=1)) == 0
            await asyncio.sleep(0.01)
            assert await asyncio.to_thread(SyncTaskQueue(backend).purge, older_than=0, status="failed") == 1
            assert [task.id for task in await queue.list()] == [done]

    run(scenario)
