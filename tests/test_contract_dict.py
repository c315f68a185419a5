"""The documented class, with only the documented verbs, keeps the contract and runs tasks."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from dict_backend import CopyingBackend, DictBackend, ListingBackend
from sitq import BaseBackend, SyncTaskQueue, TaskFailedError, TaskQueue, Worker
from sitq.testing import BackendContract


class TestDictBackend(BackendContract):
    finds_stored_tasks = False
    checks_arguments = False

    def make_backend(self, folder: Path) -> BaseBackend:
        return DictBackend({"option": "value"})


class TestCopyingBackend(BackendContract):
    finds_stored_tasks = False
    checks_arguments = False

    def make_backend(self, folder: Path) -> BaseBackend:
        return CopyingBackend({})


class TestListingBackend(BackendContract):
    checks_arguments = False

    def make_backend(self, folder: Path) -> BaseBackend:
        return ListingBackend({})


BACKENDS = pytest.mark.parametrize("kind", [DictBackend, CopyingBackend, ListingBackend])


class Counted:
    """Counts its calls, from threads too."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int) -> int:
        self.numbers.append(number)
        return number * number

    def __reduce__(self) -> str:
        return "COUNTED"  # by reference: the worker of this process counts here


COUNTED = Counted()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def stumble() -> None:
    raise ValueError("over a stone")


@BACKENDS
def test_tasks_run_and_their_values_come_back(kind: type[DictBackend]) -> None:
    async def main() -> None:
        backend = kind({"option": "value"})
        queue = TaskQueue(backend)
        early = await queue.enqueue(double, 4)
        async with Worker(backend):
            late = await queue.enqueue(pow, 2, exp=5)
            soon = await queue.options(delay=0.05).enqueue(double, 21)
            values = [await queue.result(task_id, timeout=20) for task_id in (early, late, soon)]
        assert values == [8, 32, 42]
        assert [task.status for task in await queue.list()] == ["completed"] * 3

    asyncio.run(main())


class BackendMadeByInitialize(DictBackend):
    def initialize(self) -> None:
        self.tasks, self.results = {}, {}


def test_a_worker_that_starts_leaves_what_initialize_made() -> None:
    async def main() -> None:
        backend = BackendMadeByInitialize()
        queue = TaskQueue(backend)
        task_id = await queue.enqueue(double, 4)
        async with Worker(backend), Worker(backend):
            assert await queue.result(task_id, timeout=20) == 8

    asyncio.run(main())


@BACKENDS
def test_a_failing_task_does_not_stop_the_worker(kind: type[DictBackend]) -> None:
    async def main() -> None:
        backend = kind()
        queue = TaskQueue(backend)
        async with Worker(backend):
            failing = await queue.enqueue(stumble)
            with pytest.raises(TaskFailedError, match="over a stone") as caught:
                await queue.result(failing, timeout=20)
            assert "in stumble" in str(caught.value.traceback)
            assert await queue.result(await queue.enqueue(double, 1), timeout=20) == 2

    asyncio.run(main())


@BACKENDS
def test_two_workers_of_one_process_share_the_tasks(kind: type[DictBackend]) -> None:
    async def main() -> None:
        backend = kind()
        queue = TaskQueue(backend)
        COUNTED.numbers.clear()
        async with Worker(backend, concurrency=3), Worker(backend, concurrency=5):
            ids = await queue.enqueue_many(COUNTED, [(number,) for number in range(200)])
            values = [await queue.result(task_id, timeout=20) for task_id in ids]
        assert values == [number * number for number in range(200)]
        assert sorted(COUNTED.numbers) == list(range(200))

    asyncio.run(main())


@BACKENDS
def test_a_paused_queue_waits_and_a_cancelled_task_never_runs(kind: type[DictBackend]) -> None:
    async def main() -> None:
        backend = kind()
        queue = TaskQueue(backend)
        COUNTED.numbers.clear()
        await queue.pause("default")
        waiting, cancelled = await queue.enqueue_many(COUNTED, [(1,), (2,)])
        await backend.aupdate_task_status(cancelled, "cancelled")
        async with Worker(backend, queues=("default", "other")):
            other = await queue.options(queue="other").enqueue(double, 3)
            assert await queue.result(other, timeout=20) == 6
            assert COUNTED.numbers == []
            await queue.resume("default")
            assert await queue.result(waiting, timeout=20) == 1
        assert COUNTED.numbers == [1]

    asyncio.run(main())


def test_a_sync_queue_and_a_worker_on_a_loop_of_its_own() -> None:
    backend = DictBackend()
    queue = SyncTaskQueue(backend)
    stop = threading.Event()

    async def work() -> None:
        async with Worker(backend):
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        assert queue.result(queue.enqueue(double, 4), timeout=20) == 8
    finally:
        stop.set()
        thread.join()
