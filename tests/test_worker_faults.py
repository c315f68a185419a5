"""Workers whose database fails, whose loop is blocked, or whose claims are lost."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dict_backend import DictBackend
from sitq import rounds
from sitq.backends.base import BaseBackend
from sitq.claims import ClaimRequest
from sitq.exceptions import BackendError, DatabaseLockedError, TaskFailedError
from sitq.heartbeat import Heartbeat
from sitq.models import TaskStatus
from sitq.queue import TaskQueue
from sitq.retry import RetryPolicy
from sitq.testing import MovableClock
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
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    reset()
    monkeypatch.setattr(rounds, "ROUND_POLICY", RetryPolicy(delay=0.001, max_delay=0.01))


class Faulty(DictBackend):
    """Raises what it was told to, before or after doing its work."""

    def __init__(self, *errors: Exception, after: bool = False) -> None:
        super().__init__()
        self.errors = list(errors)
        self.after = after
        self.extended = threading.Event()

    def finish_and_claim(self, outcomes: Any, request: Any) -> Any:
        if outcomes and self.errors and not self.after:
            raise self.errors.pop()
        answer = super().finish_and_claim(outcomes, request)
        if outcomes and self.errors:
            raise self.errors.pop()
        return answer

    def extend(self, tokens: Any, lease: float) -> list[bool]:
        if self.errors:
            raise self.errors.pop()
        self.extended.set()
        return super().extend(tokens, lease)


class Picky(DictBackend):
    """Refuses every value of more than a hundred bytes."""

    def finish(self, outcomes: Any) -> list[bool]:
        if any(len(outcome.value or b"") > 100 for outcome in outcomes):
            raise BackendError("packet too large")
        return super().finish(outcomes)


class Gone(DictBackend):
    """Accepts no outcome."""

    def finish(self, outcomes: Any) -> list[bool]:
        raise BackendError("the server is gone")

    def extend(self, tokens: Any, lease: float) -> list[bool]:
        raise BackendError("the server is gone")


# Errors of the database.


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "error", [DatabaseLockedError("locked"), BackendError("gone"), sqlite3.OperationalError("odd")]
)
def test_outcomes_are_kept_until_they_are_written(
    error: Exception, after: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with at_work(Faulty(*[error] * 3, after=after), concurrency=1) as queue:
            ids = await queue.enqueue_many(note_later, [(number,) for number in range(5)])
            assert [await queue.result(task_id, timeout=LONG) for task_id in ids[:1]] == [0]

    run(scenario)
    assert ran.count(0) == 1
    failed = [record for record in caplog.records if record.__dict__["event"] == "round_failed"]
    assert len(failed) == 3
    assert failed[0].__dict__["error_type"] == type(error).__name__


def test_a_worker_outlives_a_database_that_gives_no_tasks() -> None:
    class Shy(DictBackend):
        errors = 8

        def claim(self, request: Any) -> Any:
            self.errors -= 1
            if self.errors > 0:
                raise DatabaseLockedError("locked")
            return super().claim(request)

    async def scenario() -> None:
        async with at_work(Shy()) as queue:
            assert await queue.result(await queue.enqueue(note, 1), timeout=LONG) == 1

    run(scenario)


def test_a_value_that_the_database_refuses_does_not_stand_in_the_way_of_others() -> None:
    async def scenario() -> None:
        async with at_work(Picky()) as queue:
            ids = [await queue.enqueue(note, value) for value in (1, "x" * 200, 2)]
            assert await queue.result(ids[0], timeout=LONG) == 1
            assert await queue.result(ids[2], timeout=LONG) == 2
            with pytest.raises(TaskFailedError, match="could not be stored"):
                await queue.result(ids[1], timeout=LONG)

    run(scenario)


def test_stop_ends_although_the_database_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with at_work(Gone(), lease=0.1) as queue:
            task_id = await queue.enqueue(note, 1)
            await until(lambda: ran)
        assert task_id in lost_outcomes(caplog)

    run(scenario)


def lost_outcomes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        task_id
        for record in caplog.records
        if record.__dict__["event"] == "outcomes_lost"
        for task_id in record.__dict__["task_ids"]
    ]


# The heartbeat.


@contextmanager
def reaping(backend: BaseBackend) -> Iterator[list[str]]:
    """Reap again and again, as another process would."""
    reaped: list[str] = []
    stop = threading.Event()

    def reap() -> None:
        while not stop.wait(0.02):
            reaped.extend(backend.reap())

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        yield reaped
    finally:
        stop.set()
        thread.join()


async def block_the_loop(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251  # just that
    return "blocked"


def test_a_blocked_loop_does_not_cost_the_worker_its_claims(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with at_work(backend, lease=1.5) as queue:
            with reaping(backend) as reaped:
                assert await queue.result(await queue.enqueue(block_the_loop, 2.5), timeout=LONG) == "blocked"
            assert reaped == []

    run(scenario)


def test_without_a_heartbeat_it_would(backend: BaseBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heartbeat, "_beat", lambda self: True)

    async def scenario() -> None:
        async with at_work(backend, lease=0.1) as queue:
            with reaping(backend) as reaped:
                task_id = await queue.enqueue(block_the_loop, 0.5)
                await until(lambda: reaped)
            assert set(reaped) == {task_id}

    run(scenario)


def test_a_heartbeat_that_failed_beats_again() -> None:
    async def scenario() -> None:
        backend = Faulty(*[DatabaseLockedError("locked")] * 2)
        async with at_work(backend, lease=0.1) as queue:
            task_id = await queue.enqueue(wait_at_gate, 1)
            assert await asyncio.to_thread(backend.extended.wait, LONG)
            gate.set()
            assert await queue.result(task_id, timeout=LONG) == 1

    run(scenario)


def test_a_heartbeat_that_learns_of_a_new_time_does_not_reap_what_its_worker_runs() -> None:
    class Corrected(DictBackend):
        """Extends by a clock that is a minute late, and knows that only afterwards."""

        def __init__(self) -> None:
            super().__init__()
            self.clock, self.corrected, self.reaped = MovableClock(), False, threading.Event()
            self.use_clock(self.clock)

        def extend(self, tokens: Any, lease: float) -> list[bool]:
            held = super().extend(tokens, lease)
            if not self.corrected:
                self.clock.move(60)
                self.corrected = True
            return held

        def reap(self) -> list[str]:
            task_ids = super().reap()
            if self.corrected:
                self.reaped.set()
            return task_ids

    async def scenario() -> None:
        backend = Corrected()
        async with at_work(backend, lease=0.6) as queue:
            task_id = await queue.enqueue(wait_at_gate, 1)
            assert await asyncio.to_thread(backend.reaped.wait, LONG)
            gate.set()
            assert await queue.result(task_id, timeout=LONG) == 1
            assert (await queue.get_task(task_id)).claim_count == 1

    run(scenario)


def test_the_tasks_of_a_dead_worker_run_again(backend: BaseBackend) -> None:
    async def scenario() -> None:
        async with backend:
            queue = TaskQueue(backend)
            task_id = await queue.enqueue(note, 1)
            dead = ClaimRequest(worker_id="dead", queues=("default",), limit=1, lease=0.1)
            assert len(await backend.aclaim(dead)) == 1
            async with Worker(backend, lease=0.3):
                assert await queue.result(task_id, timeout=LONG) == 1

    run(scenario)


# Lost claims.


def events(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {record.__dict__["event"] for record in caplog.records if record.name == "sitq.worker"}


def test_a_lost_claim_ends_its_function_and_its_outcome_is_dropped(
    backend: BaseBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with backend:
            task_id = await TaskQueue(backend).enqueue(wait_at_gate_later, 1)
            async with Worker(backend, lease=0.15):
                await wait_started(1)
                await backend.aupdate_task_status(task_id, "cancelled")
                await until(lambda: "claim_lost" in events(caplog))
            # The gate is still closed, so that stop can only have ended because the function was cancelled.
            assert (await backend.aget_statuses([task_id]))[task_id] is TaskStatus.CANCELLED

    run(scenario)


def test_a_late_outcome_does_not_overwrite_what_stands(backend: BaseBackend, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with backend:
            task_id = await TaskQueue(backend).enqueue(wait_at_gate, 1)
            async with Worker(backend):
                await wait_started(1)
                await backend.aupdate_task_status(task_id, "cancelled")
                gate.set()
            assert (await backend.aget_statuses([task_id]))[task_id] is TaskStatus.CANCELLED

    run(scenario)
    assert "outcome_dropped" in events(caplog)


def test_no_log_record_holds_a_payload(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with at_work(DictBackend()) as queue:
            assert await queue.result(await queue.enqueue(note, "the secret"), timeout=LONG) == "the secret"

    with caplog.at_level("DEBUG", logger="sitq"):
        run(scenario)
    assert {"worker_started", "task_completed", "worker_stopped"} <= events(caplog)
    assert not any("the secret" in str(record.__dict__) for record in caplog.records)


class Slow(DictBackend):
    """Its first claim reaches the event loop only when its lease has lapsed and the task waits again."""

    slow = True

    async def afinish_and_claim(self, outcomes: Any, request: Any) -> Any:
        held, claims = await super().afinish_and_claim(outcomes, request)
        if claims and self.slow:
            self.slow = False
            await until(lambda: self.tasks[claims[0].id].status == TaskStatus.QUEUED)  # a heartbeat reaps it
        return held, claims


def test_a_claim_that_lapsed_before_the_event_loop_learned_of_it_is_not_begun() -> None:
    async def scenario() -> None:
        async with at_work(Slow(), lease=0.3) as queue:
            task_id = await queue.enqueue(note_later, "once")
            await queue.result(task_id, timeout=LONG)

    run(scenario)
    assert ran == ["once"]
