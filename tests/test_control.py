"""What a function can say and know of its own task: retries, snoozing, cancelling itself, progress."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import sitq
from dict_backend import DictBackend
from sitq import (
    BaseBackend,
    Cancel,
    ConfigurationError,
    FailedAttempt,
    NotInTaskError,
    Retry,
    Snooze,
    TaskCancelledError,
    TaskFailedError,
    current_task,
)
from sitq.failures import read_failures
from working import LONG, at_work, note, ran, reset, run, until

SOON = {"retry_delay": 0.01, "retry_jitter": 0}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


class Declined(Exception):  # noqa: N818  # as a shop would call it
    pass


class CardExpired(Declined):
    pass


def fail_with(kind: type[Exception]) -> None:
    ran.append(kind)
    raise kind("on purpose")


# Which failures are retried.


@pytest.mark.parametrize(
    ("options", "kind", "attempts"),
    [
        ({}, Declined, 3),
        ({"retry_on": Declined}, CardExpired, 3),
        ({"retry_on": (OSError, Declined)}, Declined, 3),
        ({"retry_on": OSError}, Declined, 1),
        ({"give_up_on": Declined}, CardExpired, 1),
        ({"give_up_on": CardExpired}, Declined, 3),
        ({"retry_on": Declined, "give_up_on": [CardExpired]}, CardExpired, 1),
    ],
)
def test_exceptions_decide_whether_a_failure_is_retried(
    backend: BaseBackend, options: dict[str, Any], kind: type[Exception], attempts: int
) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=2, **SOON, **options).enqueue(fail_with, kind)
            result = await queue.get_result(task_id, timeout=LONG)
            assert result is not None
            assert result.error_type == f"test_control.{kind.__name__}"
            assert ran == [kind] * attempts
            assert (await queue.get_task(task_id)).retry_count == attempts - 1

    run(scenario)


def test_a_timeout_is_a_failure_like_any_other() -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            for options, retries in (({"retry_on": TimeoutError}, 1), ({"give_up_on": TimeoutError}, 0)):
                chosen = queue.options(timeout=0.02, max_retries=1, **SOON, **options)
                task_id = await chosen.enqueue(asyncio.sleep, LONG)
                with pytest.raises(TaskFailedError, match=r"within 0\.02 seconds"):
                    await queue.result(task_id, timeout=LONG)
                assert (await queue.get_task(task_id)).retry_count == retries

    run(scenario)


asked: list[FailedAttempt] = []


def ask(failure: FailedAttempt) -> Any:
    asked.append(failure)
    if isinstance(failure.error, Declined):
        return False
    return timedelta(milliseconds=10) if failure.attempt == 1 else 0.01


@sitq.task(max_retries=2, retry_delay=3600, give_up_on=KeyError, retry=ask)
def asks(kind: type[Exception]) -> None:
    fail_with(kind)


@pytest.mark.parametrize(("kind", "attempts"), [(ValueError, 3), (CardExpired, 1), (KeyError, 1)])
def test_a_function_decides_about_what_the_exceptions_leave_to_it(kind: type[Exception], attempts: int) -> None:
    asked.clear()

    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            await queue.get_result(await queue.enqueue(asks, kind), timeout=LONG)

    run(scenario)
    assert ran == [kind] * attempts
    assert [failure.attempt for failure in asked] == {ValueError: [1, 2], CardExpired: [1], KeyError: []}[kind]
    assert all(failure.max_retries == 2 and failure.type.endswith(kind.__name__) for failure in asked)


@sitq.task(max_retries=1, retry_delay=0.01, retry=lambda failure: 1 / 0)
def asks_in_vain() -> None:
    fail_with(Declined)


def test_a_function_that_cannot_decide_leaves_it_to_the_options(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            await queue.get_result(await queue.enqueue(asks_in_vain), timeout=LONG)

    run(scenario)
    assert ran == [Declined] * 2
    assert "the function given as retry= failed" in caplog.text


def test_every_attempt_leaves_its_error_and_traceback(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=2, **SOON).enqueue(fail_with, Declined)
            await queue.get_result(task_id, timeout=LONG)
            errors = read_failures((await queue.get_task(task_id)).errors)
            assert [error["attempt"] for error in errors] == [1, 2, 3]
            assert {error["message"] for error in errors} == {"on purpose"}
            assert all("in fail_with" in error["traceback"] for error in errors)

    run(scenario)


# Exceptions that say how an attempt ends.


async def retry_once(**options: Any) -> int:
    attempt = current_task().attempt
    ran.append(attempt)
    if attempt == 1:
        raise Retry(**options)
    return attempt


def test_a_function_asks_to_be_run_again_and_it_counts(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            patient = queue.options(max_retries=1, retry_delay=3600, retry_on=OSError)
            task_id = await patient.enqueue(retry_once, delay=0.01, reason="the other side is busy")
            assert await queue.result(task_id, timeout=LONG) == 2
            task = await queue.get_task(task_id)
            assert task.retry_count == 1
            assert json.loads(str(task.errors))[0]["message"] == "the other side is busy"
            never = await queue.enqueue(retry_once, delay=0.01)
            with pytest.raises(TaskFailedError, match="asked to be run again"):
                await queue.result(never, timeout=LONG)

    run(scenario)


def snooze_twice() -> int:
    ran.append(current_task().attempt)
    if len(ran) < 3:
        raise Snooze(0.01)
    return current_task().attempt


def test_a_snoozed_task_comes_back_and_it_does_not_count(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(snooze_twice)
            assert await queue.result(task_id, timeout=LONG) == 1
            task = await queue.get_task(task_id)
            assert (task.retry_count, task.errors, ran) == (0, None, [1, 1, 1])

    run(scenario)


def give_up(reason: str | None) -> None:
    raise Cancel(reason)


@pytest.mark.parametrize(("reason", "shown"), [("the order is gone", "the order is gone"), (None, "cancelled itself")])
def test_a_function_cancels_its_own_task(backend: BaseBackend, reason: str | None, shown: str) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.options(max_retries=5).enqueue(give_up, reason)
            with pytest.raises(TaskCancelledError, match=shown):
                await queue.result(task_id, timeout=LONG)
            assert (await queue.get_task(task_id)).status == "cancelled"

    run(scenario)


@pytest.mark.parametrize("control", [Retry(3, "why"), Retry(), Snooze(timedelta(minutes=1)), Cancel("why"), Cancel()])
def test_what_a_function_raises_travels_between_processes(control: Exception) -> None:
    copy = pickle.loads(pickle.dumps(control))
    assert (type(copy), str(copy), vars(copy)) == (type(control), str(control), vars(control))


@pytest.mark.parametrize("wrong", [lambda: Retry("5"), lambda: Retry(-1), lambda: Snooze(None), lambda: Snooze(-0.1)])
def test_a_delay_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="delay="):
        wrong()


# current_task.


def test_outside_a_task_there_is_none() -> None:
    with pytest.raises(NotInTaskError, match="functions that a worker has called"):
        current_task()


def look() -> tuple[Any, ...]:
    task = current_task()
    return task.id, task.name, task.queue, task.attempt, task.deadline, task.cancelled


async def look_later() -> tuple[Any, ...]:
    await asyncio.sleep(0.005)
    assert await asyncio.to_thread(look) == look()
    return look()


@pytest.mark.parametrize("function", [look, look_later])
def test_a_function_knows_its_task(backend: BaseBackend, function: Any) -> None:
    async def scenario() -> None:
        async with at_work(backend, concurrency=5) as queue:
            before = datetime.now(UTC)
            ids = await queue.options(timeout=60).enqueue_many(function, [()] * 20)
            for task_id in ids:
                found, name, from_queue, attempt, deadline, cancelled = await queue.result(task_id, timeout=LONG)
                assert (found, from_queue, attempt, cancelled) == (task_id, "default", 1, False)
                assert name == f"test_control.{function.__name__}"
                assert timedelta(seconds=59) < deadline - before < timedelta(seconds=90)
            unlimited = await queue.result(await queue.enqueue(look), timeout=LONG)
            assert unlimited[4] is None
        with pytest.raises(NotInTaskError):
            current_task()

    run(scenario)


def report_steps(seen: str) -> None:
    for step in range(1_000):
        current_task().progress(step / 1_000, f"step {step}")
    current_task().progress(1, "done")
    note(seen)
    raise Declined("after all that")


def test_the_last_word_of_progress_is_there_when_the_task_ends(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(report_steps, "x")
            await queue.get_result(task_id, timeout=LONG)
            task = await queue.get_task(task_id)
            assert (task.progress, task.progress_note, task.status) == (1.0, "done", "failed")

    run(scenario)


async def report_and_wait() -> None:
    current_task().progress(0.5)
    await asyncio.to_thread(go_on.wait, LONG)


go_on = threading.Event()


def test_progress_is_seen_while_the_task_runs(backend: BaseBackend) -> None:
    go_on.clear()

    async def scenario() -> None:
        async with at_work(backend) as queue:
            task_id = await queue.enqueue(report_and_wait)
            async with asyncio.timeout(LONG):
                while (await queue.get_task(task_id)).progress is None:  # noqa: ASYNC110  # of this there is no news
                    await asyncio.sleep(0.01)
            assert (await queue.get_task(task_id)).status == "running"
            go_on.set()
            await queue.result(task_id, timeout=LONG)

    run(scenario)


def report_wrongly(fraction: Any, text: Any) -> None:
    current_task().progress(fraction, text)


@pytest.mark.parametrize(("fraction", "text"), [(1.5, None), (-0.1, None), ("half", None), (True, None), (0.5, 5)])
def test_progress_that_cannot_be_is_refused(fraction: Any, text: Any) -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            with pytest.raises(TaskFailedError, match="is not allowed: give a") as caught:
                await queue.result(await queue.enqueue(report_wrongly, fraction, text), timeout=LONG)
            assert caught.value.error_type == "sitq.exceptions.ConfigurationError"

    run(scenario)


def swallow_everything() -> str:
    with suppress(Exception):
        note("inside")
        raise Declined
    return "done"


def test_a_functions_own_exceptions_are_its_own() -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            assert await queue.result(await queue.enqueue(swallow_everything), timeout=LONG) == "done"
            await until(lambda: ran == ["inside"])

    run(scenario)
