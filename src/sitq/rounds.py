"""A worker at work, from its start to its stop: rounds of writing outcomes and claiming tasks.

A round is one call of the backend. While tasks end, the next round follows at once with all that ended
meanwhile; when a claim came back short, the worker waits for news.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from random import random

from .alarm import Alarm
from .attempt import given_back
from .attendant import Attendant
from .backends.base import BaseBackend
from .claims import Claim, ClaimRequest, Outcome, Token
from .exceptions import BackendError
from .execution import Execution
from .heartbeat import Heartbeat
from .isolation import Isolation
from .lookout import Lookout
from .refused import may_lie_in_an_outcome, write_one_by_one
from .retention import purging
from .retry import RetryPolicy, wait_before_retry
from .serialization import Serializer
from .wakeups import queue_topic

logger = logging.getLogger("sitq.worker")

POLL, POLL_IF_HEARING = 0.2, 0.5
"""Seconds between looks for tasks unless told otherwise; the latter where the worker hears of other processes."""

BREATH = 0.02
"""Seconds without news before it asks when the next task is due: what has just been claimed begins first."""

ROUND_POLICY = RetryPolicy(delay=0.05, max_delay=2.0)
"""How long to wait before a round that failed is tried again."""

STOP_GRACE = 1.0
"""Seconds that cancelled functions have to clean up when the worker stops at once."""

THREADS_GRACE = 5.0
"""Seconds that a stopping worker waits for a beat, and for a look, that is under way."""

SUSPECT_AFTER = 5
"""After so many rounds that failed in a row, outcomes are tried one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker was told; times in seconds."""

    queues: tuple[str, ...]
    concurrency: int
    processes: int
    poll_interval: float | None
    lease: float
    serializer: Serializer
    transaction_warning: float
    retention: float | None = None


class Rounds:
    """One stretch of work on one event loop. Made inside that loop."""

    def __init__(self, backend: BaseBackend, settings: Settings, *, worker_id: str) -> None:
        self._backend = backend
        self._settings = settings
        self._worker_id = worker_id
        self._loop = asyncio.get_running_loop()
        self._wakeup = backend.wakeups.asubscribe(queue_topic(queue) for queue in settings.queues)
        self._execution = Execution(
            settings.serializer,
            slots=settings.concurrency,
            processes=settings.processes,
            now=backend.now,
            on_end=self._wakeup.wake,
            transactions=backend,
            transaction_warning=settings.transaction_warning,
        )
        self._attendant = Attendant(backend, self._execution)
        self._heartbeat = Heartbeat(backend, lease=settings.lease, tokens=self._held_tokens, on_lost=self._lose)
        self._presence = backend.presence(worker_id)
        self._isolation = Isolation()
        self._lookout = Lookout(
            backend,
            self._presence,
            queues=settings.queues,
            busy=lambda: bool(self._execution.tokens()),
            on_isolated=self._notice_isolated,
        )
        self._unwritten: list[Outcome] = []
        self._stopping = False
        self._failures = 0
        self._last_answer = time.monotonic()
        self._alarm = Alarm(backend, settings.queues, self._wakeup.wake)

    def stop(self) -> None:
        """Claim no more, and end when all that was claimed has ended and is written."""
        self._stopping = True
        self._wakeup.wake()

    async def run(self) -> None:
        """Work until stopped. If cancelled, stop at once and give back what runs."""
        with self._wakeup:
            await asyncio.to_thread(self._presence.show)
            self._heartbeat.start()
            self._lookout.start()
            try:
                async with purging(self._backend, self._settings.retention), self._attendant:
                    await self._work_until_cancelled()
            except asyncio.CancelledError:
                await self._give_back()
                raise
            finally:
                await self._shut_down()

    async def _work_until_cancelled(self) -> None:
        try:
            await self._work()
        except asyncio.CancelledError:
            self._execution.give_back()  # at once: functions that are being cancelled too would fail of it
            raise

    async def _work(self) -> None:
        while not self._done():
            try:
                came_back_short = await self._round()
            except Exception as exc:  # the worker outlives whatever its database does
                await self._recover(exc)
            else:
                self._failures = 0
                if not self._done():
                    await self._wait(came_back_short)

    def _done(self) -> bool:
        return self._stopping and not (self._unwritten or self._execution.outcomes or self._execution.unfinished)

    # One round.

    async def _round(self) -> bool:
        """Write what has ended and fill the free slots; say whether there were fewer tasks than slots."""
        await self._attendant.write_progress()  # before an ending that would fence it out
        self._unwritten.extend(self._take_outcomes())
        request = self._request()
        if request is None and not self._unwritten:
            return False
        asked = self._loop.time()
        held, claims = await self._finish_and_claim(request)
        self._written(held)
        if request is not None:
            alone = any(claim.isolated for claim in claims)
            self._isolation.claimed(self._loop.time(), alone=alone, asked=request.isolated)
        for claim in await self._held_since(asked, claims):
            self._execution.start(claim)
            self._attendant.attend()
        return request is not None and len(claims) < request.limit

    async def _held_since(self, asked: float, claims: list[Claim]) -> list[Claim]:
        """The claims that still hold: a blocked event loop may learn of them when their leases have lapsed."""
        while claims and self._loop.time() - asked > self._settings.lease / 2:
            asked = self._loop.time()
            held = await self._backend.aextend([claim.token for claim in claims], self._settings.lease)
            claims = list(compress(claims, held))
        return claims

    def _take_outcomes(self) -> list[Outcome]:
        outcomes = self._execution.outcomes
        return [outcomes.popleft() for _ in range(len(outcomes))]

    def _request(self) -> ClaimRequest | None:
        free_slots = self._execution.free_slots
        if self._stopping or free_slots < 1:
            return None
        isolated = self._isolation.choose(self._loop.time(), running=len(self._execution.tokens()))
        if isolated is None:
            return None
        return ClaimRequest(self._worker_id, self._settings.queues, free_slots, self._settings.lease, isolated)

    async def _finish_and_claim(self, request: ClaimRequest | None) -> tuple[list[bool], list[Claim]]:
        """Call the backend; a cancellation waits for its answer, so that claims are given back, not forgotten."""
        call = asyncio.ensure_future(self._backend.afinish_and_claim(self._unwritten, request))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._execution.give_back()  # as above
            await asyncio.wait([call])
            if not call.cancelled() and call.exception() is None:
                held, claims = call.result()
                self._written(held)
                self._unwritten = [given_back(claim, at=self._backend.now()) for claim in claims]
            raise

    def _written(self, held: Sequence[bool]) -> None:
        for outcome, holds in zip(self._unwritten, held, strict=True):
            if not holds:
                fields = {"event": "outcome_dropped", "task_id": outcome.token.task_id, "worker_id": self._worker_id}
                logger.warning("outcome dropped, the claim was lost", extra=fields)
        self._unwritten = []
        self._last_answer = time.monotonic()

    # Between rounds.

    async def _wait(self, came_back_short: bool) -> None:
        """Wait for an end, for news of a queue, and while slots are free no longer than the poll interval."""
        if came_back_short and self._alarm.is_to_ask:
            if await self._woken(min(BREATH, self._poll_interval)):
                return
            self._alarm.ask(self._poll_interval)
        polling = self._execution.free_slots > 0 and not self._stopping
        await self._woken(self._poll_interval if polling else None)

    async def _woken(self, timeout: float | None) -> bool:
        """Wait for an end or for news, at most ``timeout`` seconds; say whether it came."""
        woken = await self._wakeup.await_wake(timeout)
        if woken:
            self._alarm.note_news()
        return woken

    @property
    def _poll_interval(self) -> float:
        return self._settings.poll_interval or (POLL_IF_HEARING if self._backend.wakeups.hears else POLL)

    # When the database does not do as it should.

    async def _recover(self, exc: Exception) -> None:
        """Wait before the next round; outcomes are kept until they are written or their leases are gone."""
        self._failures += 1
        known = isinstance(exc, BackendError)
        fields = {"event": "round_failed", "error_type": type(exc).__qualname__, "failures": self._failures}
        logger.warning("round failed, trying again: %s", exc, extra=fields, exc_info=None if known else exc)
        if self._failures >= SUSPECT_AFTER and may_lie_in_an_outcome(exc):
            await write_one_by_one(self._backend, self._unwritten)
        if self._stopping and time.monotonic() - self._last_answer > self._settings.lease:
            self._give_up()
        await asyncio.sleep(wait_before_retry(ROUND_POLICY, retry_count=self._failures - 1, random=random))

    def _give_up(self) -> None:
        fields = {"event": "outcomes_lost", "task_ids": [outcome.token.task_id for outcome in self._unwritten]}
        logger.error("outcomes could not be written before their leases ended", extra=fields)
        self._unwritten = []

    # Called by the heartbeat and the lookout, in their threads.

    def _held_tokens(self) -> list[Token]:
        outcomes = [*self._unwritten, *self._execution.outcomes.copy()]
        return [*self._execution.tokens(), *(outcome.token for outcome in outcomes)]

    def _lose(self, tokens: list[Token]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._execution.lose, tokens)

    def _notice_isolated(self, waiting: bool) -> None:
        with contextlib.suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(self._isolation.notice, waiting)

    # The end.

    async def _give_back(self) -> None:
        self._execution.give_back()
        await self._execution.finish_giving_back(STOP_GRACE)
        self._unwritten.extend(self._take_outcomes())
        if self._unwritten:
            try:
                self._written(await self._backend.afinish(self._unwritten))
            except Exception as exc:  # the leases will lapse
                fields = {"event": "give_back_failed", "error_type": type(exc).__qualname__}
                logger.warning("tasks could not be given back: %s", exc, extra=fields)

    async def _shut_down(self) -> None:
        self._heartbeat.stop()
        self._lookout.stop()
        self._execution.shut_down()
        await self._alarm.stop()
        await asyncio.to_thread(self._join_threads)

    def _join_threads(self) -> None:
        self._heartbeat.join(THREADS_GRACE)
        self._lookout.join(THREADS_GRACE)
        if not self._held_tokens():  # else the worker's death is to be noticed
            self._presence.leave()
