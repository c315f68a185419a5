from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest

import by_hand
from dict_backend import DictBackend
from sitq import calls, endings
from sitq.backends.base import BaseBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.exceptions import (
    InvalidArgumentError,
    ResultTimeoutError,
    SerializationError,
    TaskCancelledError,
    TaskFailedError,
    TaskNotFoundError,
)
from sitq.models import TaskStatus
from sitq.queue import TaskQueue
from sitq.serialization import JSONSerializer
from sitq.tasks import task

LONG = 30.0  # seconds; nothing waits for so long unless it is broken


def add(x: int, y: int = 0) -> int:
    return x + y


def fail(message: str) -> None:
    raise ValueError(message)


async def add_later(x: int) -> int:
    return x


@task(priority=7, queue="mail", max_retries=2)
def send(user: str) -> str:
    return f"sent to {user}"


class Shop:
    def close(self, at: int = 18) -> int:
        return at

    @classmethod
    def open(cls) -> str:
        return cls.__name__

    def __call__(self, x: int) -> int:
        return x


def run(backend: BaseBackend, scenario: Callable[[TaskQueue], Awaitable[None]]) -> None:
    async def main() -> None:
        async with backend:
            await scenario(TaskQueue(backend))

    asyncio.run(main())


@contextmanager
def signal_look(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """An event that is set when somebody has looked for endings."""
    looked, look = asyncio.Event(), backend.aget_statuses

    async def look_and_tell(task_ids: Any) -> Any:
        statuses = await look(task_ids)
        looked.set()
        return statuses

    with monkeypatch.context() as patch:
        patch.setattr(backend, "aget_statuses", look_and_tell)
        yield looked


# Enqueueing.


def test_enqueue_returns_the_id_of_a_queued_task(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)
        task_id = await queue.enqueue(add, 1, y=2)
        found = await queue.get_task(task_id)
        assert (found.id, found.status, found.name) == (task_id, "queued", "test_queue.add")
        assert (found.queue, found.priority, found.max_retries) == ("default", 0, 0)
        assert (found.timeout, found.due_at, found.retry_count) == (None, None, 0)
        assert found.created_at is not None
        assert before < found.created_at < datetime.now(UTC) + timedelta(seconds=1)

    run(backend, scenario)


def test_empty_arguments_are_stored_as_null(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        found = await queue.get_task(await queue.enqueue(Shop.open))
        assert (found.args, found.kwargs) == (None, None)
        assert by_hand.run_one(backend) == found.id
        assert await queue.result(found.id) == "Shop"

    run(backend, scenario)


def test_options_travel_apart_from_arguments(backend: BaseBackend):
    eta = datetime.now(UTC) + timedelta(hours=1)

    async def scenario(queue: TaskQueue) -> None:
        with_options = queue.options(priority=3, queue="maths", max_retries=1, timeout=timedelta(seconds=5), eta=eta)
        found = await queue.get_task(await with_options.enqueue(add, 1))
        assert (found.priority, found.queue, found.max_retries, found.timeout) == (3, "maths", 1, 5.0)
        assert found.due_at == eta
        assert found.scheduled is True
        assert by_hand.run_one(backend, "maths") is None

    run(backend, scenario)


def test_a_function_may_have_arguments_named_like_options(backend: BaseBackend):
    def move(function: str, self: str, priority: int, **options: Any) -> tuple[Any, ...]:
        return function, self, priority, options

    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(move, function="f", self="s", priority=1, delay=2)  # type: ignore[call-arg]
        by_hand.run_one(backend)
        assert await queue.result(task_id) == ("f", "s", 1, {"delay": 2})

    run(backend, scenario)


def test_options_of_the_call_go_before_those_of_the_decorator(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        plain = await queue.get_task(await queue.enqueue(send, "ada"))
        assert (plain.priority, plain.queue, plain.max_retries) == (7, "mail", 2)
        urgent = await queue.get_task(await queue.options(priority=9).enqueue(send, "ada"))
        assert (urgent.priority, urgent.queue, urgent.max_retries) == (9, "mail", 2)

    run(backend, scenario)


def test_options_can_be_added_to_options(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        many = queue.options(priority=1, delay=60).options(priority=2)
        first, second = await many.enqueue_many(add, [(1,), (2,)])
        for found in (await queue.get_task(first), await queue.get_task(second)):
            assert found.priority == 2
            assert found.due_at is not None
            assert found.created_at is not None
            assert found.due_at - found.created_at == timedelta(seconds=60)

    run(backend, scenario)


def test_tasks_run_by_priority_and_then_in_order(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        low = await queue.options(priority=-1).enqueue(add, 0)
        first = await queue.enqueue(add, 1)
        high = await queue.options(priority=10).enqueue(add, 2)
        second = await queue.enqueue(add, 3)
        assert by_hand.run_all(backend) == [high, first, second, low]

    run(backend, scenario)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (add, "test_queue.add"),
        (add_later, "test_queue.add_later"),
        (partial(partial(add, 1), y=2), "test_queue.add"),
        (Shop().close, "test_queue.Shop.close"),
        (Shop.open, "test_queue.Shop.open"),
        (Shop(), "test_queue.Shop"),
        (Shop, "test_queue.Shop"),
        (len, "builtins.len"),
        ([].append, "list.append"),
        (lambda: None, "test_queue.<lambda>"),
    ],
)
def test_a_task_bears_its_functions_name(function: Callable[..., Any], name: str):
    assert calls.readable_name(function) == name


# Many at once.


def test_enqueue_many_takes_tuples_and_dicts(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        ids = await queue.enqueue_many(add, [(1,), (2, 3), {"x": 4, "y": 5}])
        assert ids == sorted(ids)
        assert by_hand.run_all(backend) == ids
        assert [await queue.result(task_id) for task_id in ids] == [1, 5, 9]

    run(backend, scenario)


def test_enqueue_many_of_nothing_is_nothing(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        assert await queue.enqueue_many(add, []) == []
        assert await queue.list() == []

    run(backend, scenario)


def test_a_row_that_does_not_fit_leaves_nothing(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        with pytest.raises(InvalidArgumentError, match="do not fit test_queue") as caught:
            await queue.enqueue_many(add, [(1,), (2,), (1, 2, 3)])
        assert caught.value.__notes__ == ["It was row 2 of enqueue_many, counting from 0."]
        assert await queue.list() == []

    run(backend, scenario)


def test_more_rows_than_a_chunk_are_read_as_they_are_written(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sitq.queue.CHUNK", 4)
    monkeypatch.setattr("sitq.queue.BREATH", 2)
    standing: list[int] = []

    async def scenario(queue: TaskQueue) -> None:
        def rows() -> Iterator[tuple[int]]:
            for number in range(10):
                standing.append(len(backend.list_tasks()))
                yield (number,)

        ids = await queue.enqueue_many(add, rows())
        assert standing == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
        assert by_hand.run_all(backend) == ids

    run(backend, scenario)


def test_a_refused_chunk_says_what_stands(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sitq.queue.CHUNK", 4)
    monkeypatch.setattr("sitq.queue.BREATH", 2)

    async def scenario(queue: TaskQueue) -> None:
        with pytest.raises(SerializationError) as caught:
            await queue.enqueue_many(add, [*[(number,) for number in range(5)], (threading.Lock(),)])
        assert "The first 4 rows had been enqueued by then, and stay so." in caught.value.__notes__
        assert len(await queue.list()) == 4

    run(backend, scenario)


# What fits a function.


def test_arguments_are_tried_before_anything_is_stored(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        wrong: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
            (add, (), {}, "missing a required argument: 'x'"),
            (add, (1, 2, 3), {}, "too many positional arguments"),
            (add, (1,), {"z": 1}, "unexpected keyword argument 'z'"),
            (add, (1,), {"x": 1}, "multiple values for argument 'x'"),
            (Shop().close, (1, 2), {}, "too many positional arguments"),
            (partial(add, 1, 2), (3,), {}, "too many positional arguments"),
            (Shop(), (), {}, "missing a required argument: 'x'"),
            (len, (), {}, "missing a required argument: 'obj'"),
        ]
        for function, args, kwargs, message in wrong:
            with pytest.raises(InvalidArgumentError, match=f"^the arguments do not fit .*{message}"):
                await queue.enqueue(function, *args, **kwargs)
        assert await queue.list() == []

    run(backend, scenario)


def test_an_option_among_the_arguments_gets_a_hint():
    queue = TaskQueue(DictBackend())
    with pytest.raises(InvalidArgumentError, match=r"go through queue\.options\(priority=\.\.\., delay=\.\.\.\)"):
        asyncio.run(queue.enqueue(add, 1, priority=5, delay=3))  # type: ignore[call-arg]


def only_keyword(*, key: int) -> int:
    return key


def any_number(*numbers: int, **names: int) -> int:
    return sum(numbers) + sum(names.values())


@wraps(add)
def gives_x(*args: Any, **kwargs: Any) -> int:
    return add(1, *args, **kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (only_keyword, (), {"key": 1}),
        (any_number, tuple(range(20)), {"a": 1}),
        (any_number, (), {}),
        (gives_x, (), {}),  # its own signature counts, not that of what it wraps
        (max, (1, 2), {}),  # Python knows no signature of it
        (dict, (), {"a": 1}),
        (partial(add, y=3), (1,), {}),
    ],
)
def test_what_can_be_called_is_enqueued(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
    backend = DictBackend()

    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(function, *args, **kwargs)
        by_hand.run_one(backend)
        assert await queue.result(task_id) == function(*args, **kwargs)

    run(backend, scenario)


def test_a_keyword_that_is_missing_is_noticed_although_the_count_fits():
    with pytest.raises(InvalidArgumentError, match=r"missing a required (keyword-only )?argument: 'key'"):
        asyncio.run(TaskQueue(DictBackend()).enqueue(only_keyword))  # type: ignore[call-arg]


# Looking at tasks.


def test_list_gives_what_matches_newest_first(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        done = await queue.enqueue(add, 1)
        assert by_hand.run_one(backend) == done
        mail = await queue.enqueue(send, "ada")
        waiting = await queue.enqueue(add, 2)

        async def ids(**filters: Any) -> list[str]:
            return [found.id for found in await queue.list(**filters)]

        assert await ids() == [waiting, mail, done]
        assert await ids(limit=2) == [waiting, mail]
        assert await ids(status="completed") == [done]
        assert await ids(status=TaskStatus.QUEUED) == [waiting, mail]
        assert await ids(queue="mail") == [mail]
        assert await ids(name="test_queue.add") == [waiting, done]
        assert await ids(name="test_queue.add", status="queued", queue="default", limit=5) == [waiting]
        assert await ids(name="nobody") == []

    run(backend, scenario)


def test_an_unknown_id_is_not_found(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        known = await queue.enqueue(add, 1)
        for attempt in (
            queue.get_task("unknown"),
            queue.get_result("unknown", timeout=0),
            queue.get_result("unknown"),
            queue.result("unknown"),
            anext(aiter(queue.as_completed([known, "unknown"]))),
        ):
            with pytest.raises(TaskNotFoundError, match="'unknown'") as caught:
                await attempt
            assert caught.value.task_id == "unknown"

    run(backend, scenario)


# Results.


def test_a_result_says_how_the_task_ended(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        good, bad = await queue.enqueue(add, 1, 2), await queue.enqueue(fail, "no luck")
        by_hand.run_all(backend)
        result = await queue.get_result(good, timeout=0)
        assert result is not None
        assert (result.task_id, result.is_error) == (good, False)
        assert queue.unwrap(result) == 3
        result = await queue.get_result(bad, timeout=LONG)
        assert result is not None
        assert (result.is_error, result.error_type, result.error_message) == (True, "builtins.ValueError", "no luck")

    run(backend, scenario)


def test_result_raises_what_the_worker_saw(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(fail, "no luck")
        by_hand.run_one(backend)
        with pytest.raises(TaskFailedError, match="no luck") as caught:
            await queue.result(task_id)
        assert (caught.value.task_id, caught.value.error_type) == (task_id, "builtins.ValueError")
        assert "raise ValueError(message)" in (caught.value.traceback or "")

    run(backend, scenario)


def test_result_of_a_cancelled_task_raises_with_the_reason(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        assert by_hand.cancel_one(backend, "the order was withdrawn") == task_id
        with pytest.raises(TaskCancelledError, match="the order was withdrawn") as caught:
            await queue.result(task_id)
        assert caught.value.reason == "the order was withdrawn"

    run(backend, scenario)


@pytest.mark.parametrize(
    ("status", "error"),
    [("failed", TaskFailedError), ("cancelled", TaskCancelledError)],
)
def test_an_ended_task_without_a_stored_result_still_has_one(backend: BaseBackend, status: str, error: type[Exception]):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        await backend.aupdate_task_status(task_id, status)
        with pytest.raises(error, match="no result was stored"):
            await queue.result(task_id, timeout=LONG)

    run(backend, scenario)


def test_a_task_completed_by_hand_gives_none(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        await backend.aupdate_task_status(task_id, "completed")
        assert await queue.result(task_id) is None

    run(backend, scenario)


def test_time_can_be_up(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        assert await queue.get_result(task_id, timeout=0) is None
        assert await queue.get_result(task_id, timeout=timedelta(milliseconds=20)) is None
        with pytest.raises(ResultTimeoutError, match=rf"{task_id} had not ended .*timeout=0\.02") as caught:
            await queue.result(task_id, timeout=0.02)
        assert isinstance(caught.value, TimeoutError)

    run(backend, scenario)


def test_an_ending_in_this_process_wakes_the_waiter(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endings, "POLL", 10 * LONG)

    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        with signal_look(backend, monkeypatch) as looked:
            waiting = asyncio.create_task(queue.result(task_id))
            await looked.wait()
            await asyncio.to_thread(by_hand.run_one, backend)
            async with asyncio.timeout(LONG):
                assert await waiting == 1

    run(backend, scenario)


def test_an_ending_that_nobody_tells_of_is_found_by_looking(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        with signal_look(backend, monkeypatch) as looked, monkeypatch.context() as patch:
            patch.setattr(backend.wakeups, "notify", lambda topics: None)
            waiting = asyncio.create_task(queue.result(task_id))
            await looked.wait()
            await asyncio.to_thread(by_hand.run_one, backend)
            async with asyncio.timeout(LONG):
                assert await waiting == 1

    run(backend, scenario)


def test_who_joins_others_that_wait_is_looked_for_at_once(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endings, "POLL", 10 * LONG)

    async def scenario(queue: TaskQueue) -> None:
        done, never = await queue.enqueue_many(add, [(1,), (2,)])
        assert by_hand.run_one(backend) == done
        with signal_look(backend, monkeypatch) as looked:
            waiting = asyncio.create_task(queue.result(never))
            await looked.wait()
            async with asyncio.timeout(LONG):
                assert await queue.result(done) == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    run(backend, scenario)


def test_many_waiters_share_their_looks(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endings, "POLL", 10 * LONG)
    looks: list[int] = []

    async def scenario(queue: TaskQueue) -> None:
        ids = await queue.enqueue_many(add, [(number,) for number in range(50)])
        look, all_asked = backend.aget_statuses, asyncio.Event()

        async def count(task_ids: Any) -> Any:
            looks.append(len(task_ids))
            if len(task_ids) == len(ids):
                all_asked.set()
            return await look(task_ids)

        monkeypatch.setattr(backend, "aget_statuses", count)
        waiting = asyncio.gather(*(queue.result(task_id) for task_id in ids))
        await all_asked.wait()
        for _ in ids:
            await asyncio.to_thread(by_hand.run_one, backend)
        async with asyncio.timeout(LONG):
            assert await waiting == list(range(50))
        # One look for all at first, and at most one for each ending.
        assert len(looks) < 60

    run(backend, scenario)


def test_a_waiter_that_gives_up_leaves_the_others_waiting(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        with signal_look(backend, monkeypatch) as looked:
            quitter = asyncio.create_task(queue.result(task_id))
            patient = asyncio.create_task(queue.result(task_id, timeout=LONG))
            await looked.wait()
            quitter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await quitter
            await asyncio.to_thread(by_hand.run_one, backend)
            assert await patient == 1

    run(backend, scenario)


@pytest.mark.parametrize("begun", [False, True])
def test_a_waiter_survives_that_all_other_asyncio_tasks_are_cancelled(
    backend: BaseBackend, monkeypatch: pytest.MonkeyPatch, begun: bool
):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        before = asyncio.all_tasks()
        with signal_look(backend, monkeypatch) as looked:
            waiting = asyncio.create_task(queue.result(task_id, timeout=LONG))
            await (looked.wait() if begun else asyncio.sleep(0))
        others = asyncio.all_tasks() - before - {waiting}
        assert others
        for other in others:
            other.cancel()
        await asyncio.to_thread(by_hand.run_one, backend)
        assert await waiting == 1

    run(backend, scenario)


def test_nothing_is_asked_of_the_backend_after_the_wait(monkeypatch: pytest.MonkeyPatch):
    backend = DictBackend()

    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)
        asked, answer = asyncio.Event(), asyncio.Event()

        async def answer_late(task_ids: Any) -> Any:
            asked.set()
            await answer.wait()
            return {task_id: TaskStatus.QUEUED}

        monkeypatch.setattr(backend, "aget_statuses", answer_late)
        quitter = asyncio.create_task(queue.result(task_id))
        await asked.wait()
        quitter.cancel()
        done, _ = await asyncio.wait([quitter], timeout=0.05)
        assert not done
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await quitter

    run(backend, scenario)


def test_an_error_of_the_backend_reaches_who_waits(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.enqueue(add, 1)

        async def refuse(task_ids: Any) -> Any:
            raise TimeoutError("no connection was free")  # not to be taken for the end of the wait

        with monkeypatch.context() as patch:
            patch.setattr(backend, "aget_statuses", refuse)
            with pytest.raises(TimeoutError, match="no connection was free"):
                await queue.get_result(task_id, timeout=LONG)

    run(backend, scenario)


def test_as_completed_gives_each_result_once_as_it_ends(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endings, "POLL", 10 * LONG)

    async def scenario(queue: TaskQueue) -> None:
        late = await queue.options(queue="late").enqueue(add, 1)
        soon = await queue.enqueue(add, 2)
        results = aiter(queue.as_completed([late, soon, late], timeout=LONG))
        assert by_hand.run_one(backend) == soon
        first = await anext(results)
        assert (first.task_id, queue.unwrap(first)) == (soon, 2)
        assert by_hand.run_one(backend, "late") == late
        assert [result.task_id async for result in results] == [late]

    run(backend, scenario)


def test_as_completed_gives_what_there_is_before_time_is_up(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        done, *waiting = await queue.enqueue_many(add, [(1,), (2,), (3,)])
        by_hand.run_one(backend)
        for timeout in (0, 0.02):
            results = aiter(queue.as_completed([*waiting, done], timeout=timeout))
            assert (await anext(results)).task_id == done
            with pytest.raises(ResultTimeoutError, match=f"2 tasks, among them {waiting[0]}, had not ended"):
                await anext(results)

    run(backend, scenario)


def test_what_is_seen_as_the_time_is_up_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The look that was under way when the time was up is the one that sees the ending."""

    async def scenario() -> None:
        async with SQLiteBackend(tmp_path / "tasks.db") as backend:
            queue, answered, look = TaskQueue(backend), asyncio.Event(), backend.aget_statuses

            async def look_late(task_ids: Sequence[str]) -> Mapping[str, TaskStatus]:
                statuses = await look(task_ids)
                await answered.wait()
                return statuses

            monkeypatch.setattr(backend, "aget_statuses", look_late)
            done, waiting = await queue.enqueue_many(add, [(1,), (2,)])
            by_hand.run_one(backend)
            asyncio.get_running_loop().call_later(0.1, answered.set)
            results = aiter(queue.as_completed([done, waiting], timeout=0.02))
            assert (await anext(results)).task_id == done
            with pytest.raises(ResultTimeoutError, match=f"task {waiting} had not ended"):
                await anext(results)

    asyncio.run(scenario())


def test_as_completed_can_be_left_early(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        ids = await queue.enqueue_many(add, [(1,), (2,), (3,)])
        by_hand.run_one(backend)
        async for result in queue.as_completed(ids):
            assert result.task_id == ids[0]
            break
        by_hand.run_all(backend)
        assert [result.task_id async for result in queue.as_completed(ids)] == ids

    run(backend, scenario)


def test_as_completed_of_nothing_ends_at_once(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        assert [result async for result in queue.as_completed([])] == []

    run(backend, scenario)


def test_one_queue_serves_one_event_loop_after_the_other():
    backend = DictBackend()
    queue = TaskQueue(backend)
    for number in range(3):
        task_id = asyncio.run(queue.enqueue(add, number))
        by_hand.run_one(backend)
        assert asyncio.run(queue.result(task_id, timeout=LONG)) == number


# Pausing, serializers, lifetime.


def test_a_paused_queue_gives_nothing_until_it_is_resumed(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        task_id = await queue.options(queue="mail").enqueue(add, 1)
        await queue.pause("mail")
        await queue.pause("art")
        assert await queue.paused() == ["art", "mail"]
        assert by_hand.run_one(backend, "mail") is None
        await queue.resume("mail")
        await queue.resume("never paused")
        assert await queue.paused() == ["art"]
        assert by_hand.run_one(backend, "mail") == task_id

    run(backend, scenario)


def test_the_queues_serializer_writes_and_reads(backend: BaseBackend):
    async def scenario(_: TaskQueue) -> None:
        queue = TaskQueue(backend, serializer=JSONSerializer())
        task_id = await queue.enqueue(add, 1, y=2)
        found = await queue.get_task(task_id)
        assert (found.function, found.args, found.kwargs) == (b"test_queue:add", b"[1]", b'{"y":2}')
        by_hand.run_one(backend, serializer=JSONSerializer())
        assert await queue.result(task_id) == 3

    run(backend, scenario)


def test_what_cannot_be_stored_is_refused_by_name(backend: BaseBackend):
    async def scenario(queue: TaskQueue) -> None:
        with pytest.raises(SerializationError, match="argument 'y'"):
            await queue.enqueue(add, 1, y=threading.Lock())  # type: ignore[arg-type]
        assert await queue.list() == []

    run(backend, scenario)


def test_a_backend_that_was_given_stays_open(backend: BaseBackend):
    closed = []

    class Watched(DictBackend):
        def close(self) -> None:
            closed.append(self)

    async def main() -> None:
        async with TaskQueue(Watched()) as queue:
            await queue.enqueue(add, 1)

    asyncio.run(main())
    assert closed == []


def test_without_a_backend_there_is_a_file_in_the_working_folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    async def main() -> str:
        async with TaskQueue() as queue:
            assert not (tmp_path / "sitq.db").exists()
            return await queue.enqueue(add, 1)

    task_id = asyncio.run(main())
    assert [path.name for path in tmp_path.iterdir()] == ["sitq.db"]

    async def again() -> None:
        async with TaskQueue() as queue:
            assert (await queue.get_task(task_id)).name == "test_queue.add"

    asyncio.run(again())
