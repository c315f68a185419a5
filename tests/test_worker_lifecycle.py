"""Starting and stopping a worker, in one process."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from dict_backend import DictBackend
from sitq import worker as worker_module
from sitq.backends.base import BaseBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.exceptions import AccessDeniedError, ReadOnlyError, WorkerError
from sitq.models import TaskStatus
from sitq.queue import TaskQueue
from sitq.worker import Worker
from working import (
    LONG,
    at_work,
    gate,
    note,
    note_later,
    ran,
    reset,
    run,
    until,
    wait_at_gate,
    wait_at_gate_later,
    wait_started,
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


def test_stop_waits_for_what_runs_and_claims_nothing_more(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue, worker = TaskQueue(backend), Worker(backend, concurrency=2, poll_interval=0.01)
            ids = [await queue.enqueue(wait_at_gate, 1), await queue.enqueue(wait_at_gate_later, 2)]
            await worker.start()
            await wait_started(2)
            late = await queue.enqueue(note, 3)
            stopping = asyncio.ensure_future(worker.stop())
            await asyncio.sleep(0.05)
            assert worker.running
            assert not stopping.done()
            gate.set()
            await stopping
            assert not worker.running
            assert [await queue.result(task_id, timeout=0) for task_id in ids] == [1, 2]
            assert (await backend.aget_statuses([late]))[late] is TaskStatus.QUEUED

    run(scenario)


def test_stop_gives_back_what_does_not_end_in_time(backend: BaseBackend, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            async with Worker(backend, shutdown_timeout=0.1):
                ids = [await queue.enqueue(wait_at_gate, 1), await queue.enqueue(wait_at_gate_later, 2)]
                await wait_started(2)
            gate.set()
            tasks = [await backend.aget_task(task_id) for task_id in ids]
            assert [(task.status, task.retry_count, task.crash_count) for task in tasks if task] == [
                ("queued", 0, 0)
            ] * 2
            async with Worker(backend):
                assert [await queue.result(task_id, timeout=LONG) for task_id in ids] == [1, 2]

    run(scenario)
    assert "function_still_runs" in {record.__dict__.get("event") for record in caplog.records}


async def ignore_cancellation() -> None:
    while not gate.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await wait_at_gate_later(0)


def test_stop_ends_although_a_function_does_not() -> None:
    async def scenario() -> None:
        async with DictBackend() as backend:
            task_id = await TaskQueue(backend).enqueue(ignore_cancellation)
            async with Worker(backend, shutdown_timeout=0.1):
                await wait_started(1)
            assert (await backend.aget_statuses([task_id]))[task_id] is TaskStatus.QUEUED
            gate.set()

    run(scenario)


def test_stop_ends_although_the_database_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hung(DictBackend):
        async def afinish_and_claim(self, outcomes: Any, request: Any) -> Any:
            if outcomes:
                await asyncio.to_thread(gate.wait, LONG)
            return await super().afinish_and_claim(outcomes, request)

    monkeypatch.setattr(worker_module, "LAST_GRACE", 0.1)

    async def scenario() -> None:
        async with Hung() as backend:
            worker = Worker(backend, shutdown_timeout=0.1)
            await worker.start()
            await TaskQueue(backend).enqueue(note, 1)
            await until(lambda: ran)
            await asyncio.sleep(0.05)
            await worker.stop()
            assert worker.running
            gate.set()
            await until(lambda: not worker.running)

    run(scenario)


def test_stopping_twice_does_not_interrupt_the_giving_back() -> None:
    async def scenario() -> None:
        async with DictBackend() as backend:
            task_id = await TaskQueue(backend).enqueue(wait_at_gate_later, 1)
            worker = Worker(backend, shutdown_timeout=0.1)
            await worker.start()
            await wait_started(1)
            await asyncio.gather(worker.stop(), worker.stop(), worker.stop())
            assert (await backend.aget_statuses([task_id]))[task_id] is TaskStatus.QUEUED

    run(scenario)


def test_a_worker_can_be_started_again(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue, worker = TaskQueue(backend), Worker(backend)
            for number in range(2):
                async with worker:
                    assert await queue.result(await queue.enqueue(note, number), timeout=LONG) == number

    run(scenario)


def test_a_worker_can_be_started_again_on_another_loop() -> None:
    worker = Worker(DictBackend())

    async def scenario() -> None:
        async with worker:
            assert worker.running

    run(scenario)
    run(scenario)


def test_starting_twice_is_refused_and_stopping_twice_is_not() -> None:
    async def scenario() -> None:
        worker = Worker(DictBackend())
        await worker.stop()
        async with worker:
            with pytest.raises(WorkerError, match="running already"):
                await worker.start()
            await asyncio.gather(worker.stop(), worker.stop())
        await worker.stop()

    run(scenario)


def test_giving_up_the_wait_for_stop_does_not_undo_it() -> None:
    async def scenario() -> None:
        async with DictBackend() as backend:
            queue, worker = TaskQueue(backend), Worker(backend)
            task_id = await queue.enqueue(wait_at_gate, 1)
            await worker.start()
            await wait_started(1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(worker.stop(), 0.01)
            assert worker.running
            gate.set()
            await worker.stop()
            assert await queue.result(task_id, timeout=0) == 1

    run(scenario)


def test_several_workers_share_a_loop_and_a_backend(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend, concurrency=3) as queue, Worker(backend, concurrency=3):
            ids = await queue.enqueue_many(note_later, [(number,) for number in range(60)])
            async for _ in queue.as_completed(ids):
                pass
            async with Worker(backend, queues=["mail"]):
                task_id = await queue.options(queue="mail").enqueue(note, "mail")
                await queue.result(task_id, timeout=LONG)

    run(scenario)
    assert sorted(ran[:-1]) == list(range(60))


def test_a_loop_that_ends_without_stop_gives_running_tasks_back() -> None:
    backend = DictBackend()
    ids: list[str] = []

    async def scenario() -> None:
        ids.extend(await TaskQueue(backend).enqueue_many(wait_at_gate_later, [(number,) for number in range(10)]))
        await Worker(backend, concurrency=10, poll_interval=LONG).start()
        await wait_started(10)

    run(scenario)
    tasks = [backend.get_task(task_id) for task_id in ids]
    assert {(task.status, task.retry_count) for task in tasks if task is not None} == {("queued", 0)}


def test_a_worker_on_another_loop_cannot_be_stopped_from_here() -> None:
    loop = asyncio.new_event_loop()
    worker = Worker(DictBackend())
    loop.run_until_complete(worker.start())
    with pytest.raises(WorkerError, match="event loop"):
        asyncio.run(worker.stop())
    loop.run_until_complete(worker.stop())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_run_says_where_it_cannot_work() -> None:
    worker = Worker(DictBackend())

    async def inside_a_loop() -> None:
        with pytest.raises(WorkerError, match=r"start\(\)"):
            worker.run()
        with pytest.raises(WorkerError, match="main thread"):
            await asyncio.to_thread(worker.run)

    asyncio.run(inside_a_loop())


def test_a_worker_that_may_only_read_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    SQLiteBackend(path).initialize()
    readers = [
        SQLiteBackend(path, readonly=True),
        SQLiteBackend(path, user="rita", read_only_users=["rita"], admin_users=["anna"]),
    ]

    async def scenario() -> None:
        for reader, refusal in zip(readers, (ReadOnlyError, AccessDeniedError), strict=True):
            async with reader:
                worker = Worker(reader)
                with pytest.raises(refusal):
                    await worker.start()
                assert not worker.running
                await worker.stop()

    run(scenario)
