"""The crash rule, and when a worker makes room for tasks that must run alone: both pure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.claims import IsolatedTasks
from sitq.crashes import after_crash
from sitq.isolation import FIRST_PATIENCE, Isolation
from sitq.task_options import TaskOptions, parse_options

NONE, FIRST, LAST = IsolatedTasks


def stored(**options: Any) -> str | None:
    """What ``queue.options(...)`` stores of these."""
    column: str | None = parse_options(options)._fixed_columns.get("options")
    return column


def test_a_crash_beside_others_counts_for_nobody() -> None:
    assert after_crash(None, isolated=False, crash_count=0)[:2] == (0, None)
    assert after_crash(None, isolated=False, crash_count=2)[:2] == (2, None)


def test_a_crash_while_it_ran_alone_counts_and_the_third_is_the_last() -> None:
    assert after_crash(None, isolated=True, crash_count=0)[:2] == (1, None)
    assert after_crash(None, isolated=True, crash_count=1)[:2] == (2, None)
    count, failure, _ = after_crash(None, isolated=True, crash_count=2)
    assert (count, failure) == (3, "its worker died 3 times while it ran alone (max_crashes=3)")


@given(isolated=st.booleans(), crashes=st.integers(0, 10**6))
def test_without_a_limit_it_runs_again_for_ever(isolated: bool, crashes: int) -> None:
    assert after_crash(stored(max_crashes=None), isolated=isolated, crash_count=crashes).failure is None


@given(isolated=st.booleans(), crashes=st.integers(0, 10))
def test_on_crash_fail_lets_none_run_again(isolated: bool, crashes: int) -> None:
    assert after_crash(stored(on_crash="fail"), isolated=isolated, crash_count=crashes).failure is not None


@given(limit=st.integers(1, 20))
def test_a_task_that_kills_each_worker_runs_once_more_than_the_limit(limit: int) -> None:
    options, isolated, count, runs, failure = stored(max_crashes=limit), False, 0, 0, None
    while failure is None:
        count, failure, _ = after_crash(options, isolated=isolated, crash_count=count)
        isolated, runs = True, runs + 1
    assert (runs, count) == (limit + 1, limit)


@pytest.mark.parametrize("options", ["", "no JSON", "[]", "{}", json.dumps({"max_crashes": 3})])
def test_options_that_say_nothing_leave_the_default(options: str) -> None:
    assert after_crash(options, isolated=True, crash_count=1).failure is None
    assert after_crash(options, isolated=True, crash_count=2).failure is not None


def test_no_limit_goes_before_the_functions_own() -> None:
    own = parse_options({"max_crashes": 5})
    assert own.overridden_by(parse_options({"max_crashes": None})).given() == {"max_crashes": 0}
    assert own.overridden_by(TaskOptions()).given() == {"max_crashes": 5}


# Making room.


def test_a_worker_asks_for_others_first_as_long_as_none_must_run_alone() -> None:
    isolation = Isolation()
    assert isolation.choose(0.0, running=0) is LAST
    assert isolation.choose(1.0, running=3) is NONE


def test_a_busy_worker_empties_itself() -> None:
    isolation = Isolation()
    isolation.notice(True)
    assert isolation.choose(1.0, running=2) is None
    assert isolation.choose(1.1, running=1) is None
    assert isolation.choose(1.2, running=0) is FIRST


def test_nothing_is_claimed_beside_a_task_that_runs_alone() -> None:
    isolation = Isolation()
    isolation.choose(0.0, running=0)
    isolation.claimed(0.1, alone=True, asked=LAST)
    assert isolation.choose(1.0, running=1) is None


def test_after_it_the_others_get_as_much_time() -> None:
    isolation = Isolation()
    isolation.notice(True)
    assert isolation.choose(10.0, running=1) is None  # it begins to wait
    assert isolation.choose(11.0, running=0) is FIRST
    isolation.claimed(11.0, alone=True, asked=FIRST)
    assert isolation.choose(13.0, running=0) is LAST  # they took 3 seconds in all
    isolation.claimed(13.0, alone=False, asked=LAST)
    assert isolation.choose(15.9, running=1) is NONE
    assert isolation.choose(16.1, running=1) is None


def test_a_worker_goes_on_if_another_took_the_task() -> None:
    isolation = Isolation()
    isolation.notice(True)
    assert isolation.choose(1.0, running=0) is FIRST
    isolation.claimed(1.0, alone=False, asked=FIRST)
    assert isolation.choose(1.1, running=1) is NONE


def test_a_worker_that_does_not_become_empty_works_on_and_is_more_patient_the_next_time() -> None:
    isolation, waits = Isolation(), []
    isolation.notice(True)
    now = began = 0.0
    idle = 0.0
    while len(waits) < 4:
        choice = isolation.choose(now, running=1)
        if choice is None:
            idle += 0.5
        elif idle:
            waits.append(idle)
            idle = 0.0
        now += 0.5
    assert waits == [FIRST_PATIENCE * factor for factor in (1, 2, 4, 8)]
    assert sum(waits) <= (now - began) / 2 + max(waits)
