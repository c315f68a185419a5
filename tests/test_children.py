"""``executor="process"``: functions in child processes of the worker, and what becomes of those."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import sitq
from dict_backend import DictBackend
from sitq.queue import TaskQueue
from sitq.worker import Worker
from working import LONG, at_work, note, ran, reset, run, until

CRASHED = "sitq.exceptions.TaskCrashedError"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX's")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited for certain on Linux only")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


def pid() -> int:
    return os.getpid()


async def pid_later(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


def pid_and_wait(folder: str) -> int:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(LONG)
    return os.getpid()


def fail() -> None:
    raise ConnectionError("the reason")


def print_and_read() -> str:
    print("not for the pipe")
    return sys.stdin.read()


def kill_me(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def count_bytes(count: int) -> int:
    return len(bytearray(count))


def report() -> tuple[str, int]:
    task = sitq.current_task()
    task.progress(0.5, "half")
    return task.id, task.attempt


def cancel() -> None:
    raise sitq.Cancel("enough")


@sitq.task(retry=lambda failed: False)
def fail_for_good() -> None:
    raise ConnectionError


def unloadable() -> Any:
    class Unpicklable:
        def __reduce__(self) -> Any:
            raise TypeError("stays here")

    return Unpicklable()


def in_process(check: Callable[[TaskQueue], Awaitable[None]], **options: Any) -> None:
    async def scenario() -> None:
        async with at_work(DictBackend(), **options) as queue:
            await check(queue)

    run(scenario)


async def start(queue: TaskQueue, function: Callable[..., Any], *args: Any, **options: Any) -> str:
    return await queue.options(executor="process", **options).enqueue(function, *args)


async def call(queue: TaskQueue, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await queue.result(await start(queue, function, *args, **options), timeout=LONG)


async def error_of(queue: TaskQueue, function: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(sitq.TaskFailedError) as caught:
        await call(queue, function, *args, **options)
    return f"{caught.value.error_type}: {caught.value.error_message}"


def test_functions_run_in_another_process_which_is_kept() -> None:
    async def check(queue: TaskQueue) -> None:
        first = await call(queue, pid)
        assert first != os.getpid()
        assert await call(queue, pid_later, 0.0) == first
        factor = 3
        assert await call(queue, lambda number: number * factor, 14) == 42

    in_process(check, processes=1)


def test_as_many_run_at_once_as_there_may_be_processes() -> None:
    async def check(queue: TaskQueue) -> None:
        ids = [await start(queue, pid_later, 0.3) for _ in range(4)]
        assert len({await queue.result(task_id, timeout=LONG) for task_id in ids}) == 2

    in_process(check, processes=2)


def test_whatever_a_function_raises_is_told() -> None:
    async def check(queue: TaskQueue) -> None:
        task_id = await start(queue, fail)
        with pytest.raises(sitq.TaskFailedError, match="the reason") as caught:
            await queue.result(task_id, timeout=LONG)
        assert caught.value.error_type == "builtins.ConnectionError"
        assert "raise ConnectionError" in str(caught.value.traceback)
        assert "builtins.TypeError" in await error_of(queue, len, 1)
        assert "sitq.exceptions.SerializationError" in await error_of(queue, unloadable)
        assert await call(queue, print_and_read) == ""

    in_process(check, processes=1)


def test_what_a_function_says_of_its_task_counts_there_too() -> None:
    async def check(queue: TaskQueue) -> None:
        task_id = await start(queue, report)
        assert await queue.result(task_id, timeout=LONG) == (task_id, 1)
        with pytest.raises(sitq.TaskCancelledError, match="enough"):
            await call(queue, cancel)
        await error_of(queue, fail_for_good, max_retries=5)

    in_process(check, processes=1)


@POSIX
@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (kill_me, signal.SIGKILL, "was killed by SIGKILL, perhaps since the memory was used up"),
        (kill_me, signal.SIGSEGV, "was killed by SIGSEGV"),
        (leave, 3, "ended with exit code 3 before the task had ended"),
    ],
)
def test_a_child_that_dies_fails_its_own_task_only(function: Any, argument: int, message: str) -> None:
    async def check(queue: TaskQueue) -> None:
        other = await start(queue, pid_later, 0.5)
        assert await error_of(queue, function, argument) == f"{CRASHED}: the process of the task {message}"
        assert isinstance(await queue.result(other, timeout=LONG), int)
        assert isinstance(await call(queue, pid), int)

    in_process(check, processes=2)


@POSIX
def test_a_task_whose_child_died_is_retried_as_after_any_failure() -> None:
    async def check(queue: TaskQueue) -> None:
        task_id = await start(queue, leave, 1, max_retries=1, retry_delay=0, retry_on=sitq.TaskCrashedError)
        with pytest.raises(sitq.TaskFailedError, match="exit code 1"):
            await queue.result(task_id, timeout=LONG)
        task = await queue.get_task(task_id)
        assert (task.retry_count, task.crash_count) == (1, 0)

    in_process(check, processes=1)


def child_in(folder: Path) -> int:
    """The process that ``pid_and_wait`` ran in."""
    [path] = folder.iterdir()
    return int(path.name)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@POSIX
def test_a_timeout_kills_the_child(tmp_path: Path) -> None:
    async def check(queue: TaskQueue) -> None:
        assert isinstance(await call(queue, pid), int)
        error = await error_of(queue, pid_and_wait, str(tmp_path), timeout=0.5)
        assert error == "builtins.TimeoutError: the task did not end within 0.5 seconds"
        await until(lambda: not alive(child_in(tmp_path)))

    in_process(check, processes=1)


@POSIX
def test_time_spent_waiting_for_a_process_does_not_count() -> None:
    async def check(queue: TaskQueue) -> None:
        ids = [await start(queue, pid_later, 1.2, timeout=3.0) for _ in range(4)]
        for task_id in ids:
            await queue.result(task_id, timeout=LONG)

    in_process(check, processes=1)


@POSIX
def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    async def check(queue: TaskQueue) -> None:
        task_id = await start(queue, pid_and_wait, str(tmp_path))
        await until(lambda: list(tmp_path.iterdir()))
        await queue.cancel(task_id, reason="no need")
        with pytest.raises(sitq.TaskCancelledError, match="no need"):
            await queue.result(task_id, timeout=LONG)
        await until(lambda: not alive(child_in(tmp_path)))

    in_process(check, processes=1)


@LINUX
def test_a_function_that_needs_more_than_its_memory_limit_fails_alone() -> None:
    async def check(queue: TaskQueue) -> None:
        limit = 300 * 2**20
        assert await call(queue, count_bytes, 2**20, memory_limit=limit) == 2**20
        error = await error_of(queue, count_bytes, 2**30, memory_limit=limit)
        assert error == "builtins.MemoryError: more than memory_limit=314572800 bytes needed"
        assert await call(queue, count_bytes, 400 * 2**20) == 400 * 2**20

    in_process(check, processes=1)


@POSIX
def test_a_worker_that_stops_gives_back_what_its_children_run_and_ends_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with DictBackend() as backend:
            queue = TaskQueue(backend)
            async with Worker(backend, shutdown_timeout=0.0):
                idle = await call(queue, pid)
                task_id = await start(queue, pid_and_wait, str(tmp_path))
                await until(lambda: list(tmp_path.iterdir()))
            assert (await backend.aget_statuses([task_id]))[task_id] == "queued"
            await until(lambda: not alive(idle) and not alive(child_in(tmp_path)))

    run(scenario)


def test_signed_payloads_are_checked_in_the_child_too() -> None:
    async def scenario() -> None:
        serializer = sitq.CloudpickleSerializer(signing_keys={"first": "x" * 32})
        async with DictBackend() as backend, Worker(backend, serializer=serializer):
            queue = TaskQueue(backend, serializer=serializer)
            assert await call(queue, pid) != os.getpid()
            unsigned = TaskQueue(backend)
            assert "Signature" in await error_of(unsigned, pid)

    run(scenario)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "thread"}, "executor='thread' is not allowed: give one of 'process'"),
        ({"memory_limit": 1000, "executor": "process"}, "memory_limit=1000 is not allowed"),
        ({"memory_limit": 10**9}, 'memory_limit needs executor="process"'),
        ({"max_crashes": 0}, "max_crashes=0 is not allowed"),
        ({"on_crash": "ignore"}, "on_crash='ignore' is not allowed: give one of 'retry', 'fail'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: Any, message: str) -> None:
    async def scenario() -> None:
        with pytest.raises(sitq.ConfigurationError, match=message):
            await TaskQueue(DictBackend()).options(**options).enqueue(note, 1)

    run(scenario)
    assert ran == []
