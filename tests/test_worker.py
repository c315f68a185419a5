from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from dict_backend import DictBackend
from sitq.backends.base import BaseBackend
from sitq.exceptions import ConfigurationError
from sitq.models import TaskStatus
from sitq.queue import TaskQueue
from sitq.serialization import JSONSerializer
from sitq.worker import Worker
from working import (
    LONG,
    Spy,
    at_work,
    gate,
    gauge,
    gauged,
    gauged_later,
    note,
    note_later,
    ran,
    reset,
    run,
    wait_at_gate,
    wait_started,
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


# What a worker does.


@pytest.mark.parametrize("function", [note, note_later, lambda value: value])
def test_a_task_runs_and_its_value_comes_back(backend: BaseBackend, function: Callable[[int], Any]) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            assert await queue.result(await queue.enqueue(function, 7), timeout=LONG) == 7

    run(scenario)


def test_many_tasks_run_once_each(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            ids = await queue.enqueue_many(note, [(number,) for number in range(100)])
            ids += await queue.enqueue_many(note_later, [(number,) for number in range(100, 200)])
            async for result in queue.as_completed(ids):
                assert not result.is_error

    run(scenario)
    assert sorted(ran) == list(range(200))


def test_a_worker_reacts_at_once_and_does_not_wait_for_the_poll(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend, poll_interval=LONG) as queue:
            for number in range(3):
                assert await queue.result(await queue.enqueue(note, number), timeout=LONG / 2) == number

    run(scenario)


def test_a_task_starts_when_it_is_due_although_the_poll_is_later(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend, poll_interval=LONG) as queue:
            before = time.monotonic()
            task_id = await queue.options(delay=0.3).enqueue(note, 1)
            assert await queue.result(task_id, timeout=LONG / 2) == 1
            assert 0.25 < time.monotonic() - before < LONG / 2

    run(scenario)


def test_what_was_enqueued_before_the_start_runs_in_order_of_priority(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            ids = [await queue.options(priority=priority).enqueue(note, priority) for priority in (1, 5, 3, 5)]
            async with Worker(backend, concurrency=1):
                for task_id in ids:
                    await queue.result(task_id, timeout=LONG)

    run(scenario)
    assert ran == [5, 5, 3, 1]


def test_a_worker_leaves_other_queues_alone(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend, queues=["mail", "sms"]) as queue:
            ids = {name: await queue.options(queue=name).enqueue(note, name) for name in ("other", "mail", "sms")}
            await queue.result(ids["mail"], timeout=LONG)
            await queue.result(ids["sms"], timeout=LONG)
            assert (await backend.aget_statuses([ids["other"]]))[ids["other"]] is TaskStatus.QUEUED

    run(scenario)
    assert sorted(ran) == ["mail", "sms"]


def test_a_paused_queue_waits_until_it_is_resumed(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend, poll_interval=0.01) as queue:
            await backend.apause_queue("default")
            task_id = await queue.options(delay=0.01).enqueue(note, 1)
            assert await queue.get_result(task_id, timeout=0.1) is None
            await backend.aresume_queue("default")
            assert await queue.result(task_id, timeout=LONG) == 1

    run(scenario)


def test_a_serializer_of_its_own() -> None:
    async def scenario() -> None:
        async with DictBackend() as backend, Worker(backend, serializer=JSONSerializer()):
            queue = TaskQueue(backend, serializer=JSONSerializer())
            assert await queue.result(await queue.enqueue(note, [1]), timeout=LONG) == [1]

    run(scenario)


# How much at once.


@pytest.mark.parametrize("function", [gauged, gauged_later])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_more_than_concurrency_run_at_once(function: Callable[..., Any], concurrency: int) -> None:
    async def scenario() -> None:
        async with at_work(DictBackend(), concurrency=concurrency) as queue:
            async for _ in queue.as_completed(await queue.enqueue_many(function, [()] * 60)):
                pass

    run(scenario)
    assert gauge.most == concurrency


def test_claims_fill_the_free_slots_and_no_more() -> None:
    spy = Spy()

    async def scenario() -> None:
        async with at_work(spy, concurrency=5) as queue:
            ids = await queue.enqueue_many(wait_at_gate, [(0,)] * 3)
            await wait_started(3)
            ids += await queue.enqueue_many(note_later, [(number,) for number in range(40)])
            async for _ in queue.as_completed(ids[3:]):
                pass
            gate.set()

    run(scenario)
    assert (5, 3) in spy.claimed
    assert max(limit for limit, _ in spy.claimed[spy.claimed.index((5, 3)) + 1 : -3]) == 2
    assert all(got <= limit for limit, got in spy.claimed)


def test_tasks_that_end_together_are_written_together() -> None:
    spy = Spy()

    async def scenario() -> None:
        async with spy:
            queue = TaskQueue(spy)
            ids = await queue.enqueue_many(note_later, [(number,) for number in range(100)])
            async with Worker(spy, concurrency=50):
                async for _ in queue.as_completed(ids):
                    pass

    run(scenario)
    assert [size for size in spy.finished if size] == [50, 50]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queues", "mail"),
        ("queues", []),
        ("queues", [""]),
        ("queues", None),
        ("concurrency", 0),
        ("concurrency", 2.5),
        ("concurrency", True),
        ("poll_interval", 0),
        ("poll_interval", float("nan")),
        ("poll_interval", "1"),
        ("lease", -1),
        ("lease", timedelta(0)),
        ("serializer", object()),
        ("backend", "tasks.db"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(option: str, value: Any) -> None:
    options = {"backend": DictBackend(), option: value}
    with pytest.raises(ConfigurationError, match=option):
        Worker(**options)
