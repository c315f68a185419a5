"""Running one claim, without a backend: timeouts, lost claims, and tasks that are given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from execution_bench import (
    LONG,
    Bench,
    add,
    add_later,
    coroutine_of,
    end_of,
    never_give_in,
    on_a_bench,
    released,
    sleep_long,
    swallow_cancellation,
    value_of,
    wait_for_release,
)
from sitq import execution
from sitq.models import TaskStatus


@pytest.mark.parametrize("function", [sleep_long, swallow_cancellation])
def test_an_async_function_is_cancelled_at_its_timeout(function: Callable[..., Any]) -> None:
    outcome = end_of(function, timeout=0.02)
    assert outcome.status is TaskStatus.FAILED
    assert outcome.error_type == "builtins.TimeoutError"
    assert "0.02 seconds" in str(outcome.error_message)


def test_a_timeout_is_a_failure_that_may_be_retried() -> None:
    outcome = end_of(sleep_long, timeout=0.02, max_retries=1)
    assert (outcome.status, outcome.retry_count) == (TaskStatus.QUEUED, 1)


@pytest.mark.parametrize("function", [wait_for_release, never_give_in])
def test_a_function_that_cannot_be_stopped_fails_and_keeps_its_slot(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(execution, "CANCEL_GRACE", 0.02)
    monkeypatch.setattr(execution, "REPORT_INTERVAL", 0.01)

    async def scenario(bench: Bench) -> None:
        bench.start(function, timeout=0.02)
        assert (await bench.outcome()).error_type == "builtins.TimeoutError"
        assert bench.execution.free_slots == 9
        assert not bench.execution.unfinished
        assert bench.execution.tokens() == []
        await asyncio.sleep(0.05)
        released.set()
        await bench.until_free(10)
        assert not bench.execution.outcomes

    with caplog.at_level("INFO", logger="sitq.worker"):
        on_a_bench(scenario)
    events = [record.__dict__["event"] for record in caplog.records]
    assert events.count("function_still_runs") > 1
    assert events[-1] == "function_ended_late"


def test_a_function_that_ends_in_time_is_left_alone() -> None:
    assert value_of(add_later, 1, timeout=LONG) == 1
    assert value_of(add, 1, timeout=LONG) == 1


def test_a_lost_claim_is_cancelled_and_leaves_no_outcome() -> None:
    async def scenario(bench: Bench) -> None:
        on_loop = bench.start(sleep_long).token
        in_thread = bench.start(wait_for_release).token
        await asyncio.sleep(0.01)
        bench.execution.lose([on_loop, in_thread])
        await bench.until_free(9)
        released.set()
        await bench.until_free(10)
        assert not bench.execution.outcomes

    on_a_bench(scenario)


def test_what_runs_is_given_back() -> None:
    async def scenario(bench: Bench) -> None:
        claims = [bench.start(function) for function in (sleep_long, wait_for_release, never_give_in)]
        await asyncio.sleep(0.01)
        bench.execution.give_back()
        await bench.execution.finish_giving_back(0.01)
        outcomes = list(bench.execution.outcomes)
        assert {outcome.token for outcome in outcomes} == {claim.token for claim in claims}
        assert {(outcome.status, outcome.retry_count) for outcome in outcomes} == {(TaskStatus.QUEUED, None)}
        released.set()
        await bench.until_free(10)

    on_a_bench(scenario)


def test_what_has_not_begun_is_given_back_too() -> None:
    async def scenario(bench: Bench) -> None:
        bench.start(add_later, 1)
        bench.start(coroutine_of, 1)
        bench.execution.give_back()
        await bench.execution.finish_giving_back(LONG)
        assert [outcome.status for outcome in bench.execution.outcomes] == [TaskStatus.QUEUED] * 2
        await bench.until_free(10)

    on_a_bench(scenario)
