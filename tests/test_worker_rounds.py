"""When a worker claims and when it starts what it has claimed, where its rounds overlap with the tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from dict_backend import DictBackend
from sitq import TaskQueue, Worker, current_task
from sitq.claims import Claim, ClaimRequest, Token
from sitq.models import TaskStatus
from working import LONG, note_later, ran, reset, run, until


@pytest.fixture(autouse=True)
def _fresh() -> None:
    reset()


class Round(NamedTuple):
    """What a worker asked for, and what it had begun by then."""

    outcomes: int
    limit: int | None
    begun: int


class RoundsSpy(DictBackend):
    """Notes the rounds, and calls ``when`` before each but the first."""

    def __init__(self, *, overlap: bool, when: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.rounds_overlap = overlap
        self.when = when
        self.rounds: list[Round] = []

    async def afinish_and_claim(self, outcomes: Any, request: ClaimRequest | None) -> tuple[list[bool], list[Claim]]:
        if self.rounds:
            self.when()
        self.rounds.append(Round(len(outcomes), request and request.limit, len(ran)))
        return await super().afinish_and_claim(outcomes, request)


def drain(spy: RoundsSpy, tasks: int, **options: Any) -> list[Round]:
    """Let a worker run so many tasks; return its first rounds."""

    async def scenario() -> None:
        async with spy:
            queue = TaskQueue(spy)
            ids = await queue.enqueue_many(note_later, [(number,) for number in range(tasks)])
            async with Worker(spy, **options):
                async for _ in queue.as_completed(ids):
                    pass

    run(scenario)
    assert sorted(ran) == list(range(tasks))
    return spy.rounds[:4]


def test_half_of_the_slots_run_while_the_others_are_filled_again() -> None:
    rounds = drain(RoundsSpy(overlap=True), 300, concurrency=200)
    assert rounds == [
        Round(outcomes=0, limit=100, begun=0),
        Round(outcomes=0, limit=100, begun=0),
        Round(outcomes=100, limit=100, begun=100),
        Round(outcomes=100, limit=100, begun=200),
    ]


def test_few_slots_are_not_claimed_by_halves() -> None:
    assert drain(RoundsSpy(overlap=True), 100, concurrency=50)[:2] == [
        Round(outcomes=0, limit=50, begun=0),
        Round(outcomes=50, limit=50, begun=50),
    ]


def test_elsewhere_what_is_claimed_begins_at_once() -> None:
    rounds = drain(RoundsSpy(overlap=False), 300, concurrency=200)
    assert rounds[:2] == [Round(outcomes=0, limit=200, begun=0), Round(outcomes=200, limit=200, begun=200)]


async def report_and_note(number: int) -> None:
    current_task().progress(0.5)
    ran.append(number)


class SlowProgressSpy(RoundsSpy):
    """Writes progress only when all that was claimed has run."""

    def __init__(self) -> None:
        super().__init__(overlap=True)
        self.claimed = 0

    async def afinish_and_claim(self, outcomes: Any, request: ClaimRequest | None) -> tuple[list[bool], list[Claim]]:
        held, claims = await super().afinish_and_claim(outcomes, request)
        self.claimed += len(claims)
        return held, claims

    async def awrite_progress(self, reports: Any) -> None:
        async with asyncio.timeout(LONG):
            await until(lambda: len(ran) == self.claimed)


def test_what_is_claimed_does_not_wait_for_progress_that_takes_long_to_be_written() -> None:
    spy = SlowProgressSpy()

    async def scenario() -> None:
        async with spy:
            queue = TaskQueue(spy)
            ids = await queue.enqueue_many(report_and_note, [(number,) for number in range(300)])
            async with Worker(spy, concurrency=200):
                async for _ in queue.as_completed(ids):
                    pass

    run(scenario)
    assert sorted(ran) == list(range(300))


class HeartSpy(RoundsSpy):
    """Keeps the event loop from its second round until a beat has extended what was claimed before anything began."""

    def __init__(self) -> None:
        super().__init__(overlap=True, when=self.await_beat)
        self.extended = threading.Event()

    def extend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        held = super().extend(tokens, lease)
        if len(tokens) == 100 and all(held) and not ran:
            self.extended.set()
        return held

    def await_beat(self) -> None:
        assert self.extended.wait(LONG)


def test_what_is_claimed_and_not_begun_is_extended_by_the_heartbeat() -> None:
    rounds = drain(HeartSpy(), 300, concurrency=200, lease=0.3)
    assert rounds[:2] == [Round(outcomes=0, limit=100, begun=0), Round(outcomes=0, limit=100, begun=0)]


def test_what_is_claimed_and_not_begun_is_given_back_by_a_worker_that_is_cancelled() -> None:
    spy = RoundsSpy(overlap=True, when=cancel_workers)

    async def scenario() -> None:
        async with spy:
            queue, worker = TaskQueue(spy), Worker(spy, concurrency=200)
            ids = await queue.enqueue_many(note_later, [(number,) for number in range(300)])
            await worker.start()
            await until(lambda: not worker.running)
            assert set((await spy.aget_statuses(ids)).values()) == {TaskStatus.QUEUED}

    run(scenario)
    assert [spied.limit for spied in spy.rounds] == [100, 100]
    assert ran == []


def cancel_workers() -> None:
    """Do what the end of ``asyncio.run`` does."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith("sitq-worker"):
            task.cancel()


def test_a_round_that_fails_does_not_keep_what_is_claimed_from_beginning() -> None:
    failures = iter([RuntimeError("away")])

    def fail_once() -> None:
        for error in failures:
            raise error

    assert drain(RoundsSpy(overlap=True, when=fail_once), 300, concurrency=200)[:2] == [
        Round(outcomes=0, limit=100, begun=0),
        Round(outcomes=100, limit=100, begun=100),
    ]
