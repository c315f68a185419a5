"""Tasks that fail, in a worker that goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dict_backend import DictBackend
from sitq.backends.base import BaseBackend
from sitq.exceptions import TaskFailedError
from working import (
    LONG,
    at_work,
    fail_until,
    gate,
    note,
    raise_it,
    raise_it_later,
    ran,
    reset,
    run,
    wait_at_gate,
    wait_at_gate_later,
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


@pytest.mark.parametrize("function", [raise_it, raise_it_later])
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_failing_function_never_stops_the_worker(function: Any, kind: type[BaseException]) -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            with pytest.raises(TaskFailedError) as caught:
                await queue.result(await queue.enqueue(function, kind), timeout=LONG)
            assert str(caught.value.error_type).endswith(kind.__name__)
            assert await queue.result(await queue.enqueue(note, 1), timeout=LONG) == 1

    run(scenario)


def test_a_stored_failure_tells_what_happened(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(raise_it, ValueError)
            result = await queue.get_result(task_id, timeout=LONG)
            assert result is not None
            assert (result.is_error, result.error_type) == (True, "builtins.ValueError")
            assert result.error_message == "on purpose"
            assert "in raise_it" in str(result.traceback)
            task = await queue.get_task(task_id)
            assert task is not None
            assert (task.status, task.error_message) == ("failed", "on purpose")
            assert task.errors is not None

    run(scenario)


def test_a_task_is_tried_again_until_it_succeeds(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=5, retry_delay=0.01).enqueue(fail_until, "third", 3)
            assert await queue.result(task_id, timeout=LONG) == 3
            task = await queue.get_task(task_id)
            assert task is not None
            assert task.retry_count == 2

    run(scenario)


def test_a_task_fails_when_its_retries_are_used_up(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=2, retry_delay=0.01).enqueue(fail_until, "never", 100)
            with pytest.raises(TaskFailedError, match="not yet"):
                await queue.result(task_id, timeout=LONG)

    run(scenario)
    assert ran == ["never"] * 3


def test_a_task_that_takes_too_long_fails(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            for function in (wait_at_gate, wait_at_gate_later):
                with pytest.raises(TaskFailedError, match=r"within 0\.05 seconds"):
                    await queue.result(await queue.options(timeout=0.05).enqueue(function, 1), timeout=LONG)
            assert await queue.result(await queue.enqueue(note, 1), timeout=LONG) == 1
            gate.set()

    run(scenario)


def test_a_stored_call_that_cannot_be_loaded_fails_its_task(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            now = backend.now()
            await backend.aenqueue([{"id": "broken", "function": b"no pickle", "created_at": now, "name": "broken",
                                     "queue": "default", "priority": 0, "max_retries": 0}])  # fmt: skip
            with pytest.raises(TaskFailedError, match="cannot be read"):
                await queue.result("broken", timeout=LONG)
            assert await queue.result(await queue.enqueue(note, 1), timeout=LONG) == 1

    run(scenario)
