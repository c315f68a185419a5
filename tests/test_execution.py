"""Running one claim, without a backend: what is called, and how it ends by itself."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from execution_bench import (
    SERIALIZER,
    Bench,
    Later,
    Unloadable,
    add,
    add_later,
    colour,
    coroutine_of,
    end_of,
    fail,
    fail_later,
    name_thread,
    name_thread_later,
    on_a_bench,
    return_lock,
    take_colour,
    take_colour_later,
    value_of,
)
from sitq.claims import Claim
from sitq.failures import read_failures
from sitq.models import TaskStatus


@pytest.mark.parametrize(
    "function",
    [
        add,
        add_later,
        functools.partial(add, y=0),
        functools.partial(functools.partial(add_later), y=0),
        coroutine_of,
        Later(),
        lambda x: add_later(x, 0),
    ],
)
def test_every_kind_of_callable_gives_its_value(function: Callable[..., Any]) -> None:
    assert value_of(function, 5) == 5


def test_async_functions_run_on_the_loop_and_sync_ones_in_threads() -> None:
    assert value_of(name_thread_later) == threading.main_thread().name
    assert value_of(name_thread).startswith("sitq-task")


@pytest.mark.parametrize("function", [fail, fail_later])
@pytest.mark.parametrize(
    "exc",
    [ValueError("bad"), SystemExit(3), KeyboardInterrupt("bad"), asyncio.CancelledError("bad"), GeneratorExit("bad"),
     StopIteration("bad"), BaseExceptionGroup("bad", [SystemExit()])],
    ids=lambda exc: type(exc).__name__,
)  # fmt: skip
def test_whatever_is_raised_fails_the_task(function: Callable[..., Any], exc: BaseException) -> None:
    outcome = end_of(function, exc)
    assert outcome.status is TaskStatus.FAILED
    assert outcome.error_type is not None
    assert outcome.traceback is not None
    assert type(exc).__name__ in outcome.traceback
    first_frame = outcome.traceback.split("File ")[1]
    assert f"in {function.__name__}" in first_frame
    assert [entry["attempt"] for entry in read_failures(outcome.errors)] == [1]


def test_the_error_is_told_by_type_and_message() -> None:
    outcome = end_of(fail, LookupError("no row"))
    assert (outcome.error_type, outcome.error_message) == ("builtins.LookupError", "no row")


def test_a_failure_with_retries_left_is_queued_again() -> None:
    outcome = end_of(fail, ValueError("bad"), max_retries=2)
    assert outcome.status is TaskStatus.QUEUED
    assert outcome.retry_count == 1
    assert outcome.due_at is not None
    assert outcome.due_at > outcome.at


@pytest.mark.parametrize("function", [take_colour, take_colour_later])
def test_context_variables_come_along_and_stay_inside(function: Callable[..., Any]) -> None:
    values = []

    async def scenario(bench: Bench) -> None:
        colour.set("blue")
        for _ in range(2):
            bench.start(function, "red")
            value = (await bench.outcome()).value
            assert value is not None
            values.append(SERIALIZER.load_result(value, task_id=""))
        assert colour.get() == "blue"

    on_a_bench(scenario)
    assert values == ["blue", "blue"]


@pytest.mark.parametrize(("function", "args"), [(b"no pickle", None), (None, b"no pickle")])
def test_what_cannot_be_loaded_fails_with_a_readable_message(function: bytes | None, args: bytes | None) -> None:
    async def scenario(bench: Bench) -> None:
        whole = SERIALIZER.dump_call(add, (1,), {}, task_id="1")
        claim = Claim("1", "w", 1, "default", None, function or whole.function, args, None, 0, None, 0, 0)
        bench.execution.start(claim)
        outcome = await bench.outcome()
        assert outcome.status is TaskStatus.FAILED
        assert outcome.error_type == "sitq.exceptions.DeserializationError"
        assert "1" in str(outcome.error_message)
        assert bench.execution.free_slots == 10

    on_a_bench(scenario)


def test_loading_that_raises_system_exit_fails_the_task() -> None:
    assert end_of(add, Unloadable()).status is TaskStatus.FAILED


def test_a_value_that_cannot_be_stored_fails_the_task_for_good() -> None:
    outcome = end_of(return_lock, max_retries=5)
    assert outcome.status is TaskStatus.FAILED
    assert outcome.error_type == "sitq.exceptions.SerializationError"
    assert "lock" in str(outcome.error_message)


def test_where_there_are_no_threads_the_task_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert end_of(add, 1).error_message == "can't start new thread"


def test_threads_are_not_more_than_what_ran_at_once() -> None:
    names = set()

    async def scenario(bench: Bench) -> None:
        for _ in range(50):
            bench.start(name_thread)
            value = (await bench.outcome()).value
            assert value is not None
            names.add(SERIALIZER.load_result(value, task_id=""))

    on_a_bench(scenario)
    assert len(names) == 1
