"""A worker at work, from its start to its stop: rounds of writing outcomes and claiming tasks.

A round is one call of the backend. While tasks end, the next round follows at once with all that ended
meanwhile; when a claim came back short, the worker waits for news.

Where rounds overlap with work, about half of the slots run while the others are written and filled again: what a
round has claimed is started when the next one is under way, so that the database does not wait for the worker.
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
from .rest import Rest
from .retention import purging
from .retry import RetryPolicy, wait_before_retry
from .serialization import Serializer
from .threads import let_threads_run

logger = logging.getLogger("sitq.worker")

ROUND_POLICY = RetryPolicy(delay=0.05, max_delay=2.0)
"""How long to wait before a round that failed is tried again."""

STOP_GRACE = 1.0
"""Seconds that cancelled functions have to clean up when the worker stops at once."""

THREADS_GRACE = 5.0
"""Seconds that a stopping worker waits for a beat, and for a look, that is under way."""

SUSPECT_AFTER = 5
"""After so many rounds that failed in a row, outcomes are tried one by one."""

LEAST_CLAIMED = 100
"""So many tasks at least a round claims for the free slots, if it claims for half of all slots: fewer make it dear."""

HANDOVER = 0.00002
"""Seconds without the interpreter in which the writer's thread gets hold of it, to send a round."""


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
        self._rest = Rest(backend, settings.queues, settings.poll_interval)
        self._execution = Execution(
            settings.serializer,
            slots=settings.concurrency,
            processes=settings.processes,
            now=backend.now,
            on_end=self._rest.end,
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
        self._claimed: list[Claim] = []  # to be started
        self._stopping = False
        self._failures = 0
        self._last_answer = time.monotonic()

    def stop(self) -> None:
        """Claim no more, and end when all that was claimed has ended and is written."""
        self._stopping = True
        self._rest.end()

    async def run(self) -> None:
        """Work until stopped. If cancelled, stop at once and give back what runs."""
        with self._rest:
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
                if self._claimed and self._backend.rounds_overlap and self._has_more_to_do(came_back_short):
                    continue
                self._start_claimed()
                if not self._done():
                    polling = self._execution.free_slots > 0 and not self._stopping
                    await self._rest.pause(polling=polling, found_less=came_back_short)

    def _done(self) -> bool:
        left = self._unwritten or self._claimed or self._execution.outcomes or self._execution.unfinished
        return self._stopping and not left

    def _has_more_to_do(self, came_back_short: bool) -> bool:
        """Whether another round can begin at once."""
        return bool(self._execution.outcomes) or (not came_back_short and self._free_slots > 0)

    def _start_claimed(self) -> None:
        while self._claimed:
            self._execution.start(self._claimed.pop())
            self._attendant.attend()

    # One round.

    async def _round(self) -> bool:
        """Write what has ended and fill the free slots; say whether there were fewer tasks than slots."""
        if self._execution.progress:
            self._start_claimed()  # which may lapse while that is written
        await self._attendant.write_progress()  # before an ending that would fence it out
        self._unwritten.extend(self._take_outcomes())
        request = self._request()
        if request is None and not self._unwritten:
            self._start_claimed()
            return False
        asked = self._loop.time()
        held, claims = await self._finish_and_claim(request)
        self._written(held)
        if request is not None:
            alone = any(claim.isolated for claim in claims)
            self._isolation.claimed(self._loop.time(), alone=alone, asked=request.isolated)
        self._claimed = claims[::-1]
        await self._drop_lapsed(asked)
        return request is not None and len(claims) < request.limit

    async def _drop_lapsed(self, asked: float) -> None:
        """Keep the claims that still hold: a blocked event loop may learn of them when their leases have lapsed."""
        while self._claimed and self._loop.time() - asked > self._settings.lease / 2:
            asked = self._loop.time()
            try:
                held = await self._backend.aextend([claim.token for claim in self._claimed], self._settings.lease)
            except Exception:
                self._claimed = []  # Others may have them by now.
                raise
            self._claimed = list(compress(self._claimed, held))

    def _take_outcomes(self) -> list[Outcome]:
        outcomes = self._execution.outcomes
        return [outcomes.popleft() for _ in range(len(outcomes))]

    def _request(self) -> ClaimRequest | None:
        free_slots = self._free_slots
        if self._stopping or free_slots < 1:
            return None
        running = len(self._execution.tokens()) + len(self._claimed)
        isolated = self._isolation.choose(self._loop.time(), running=running)
        if isolated is None:
            return None
        limit = min(free_slots, self._most_claimed)
        return ClaimRequest(self._worker_id, self._settings.queues, limit, self._settings.lease, isolated)

    @property
    def _free_slots(self) -> int:
        return self._execution.free_slots - len(self._claimed)

    @property
    def _most_claimed(self) -> int:
        slots = self._settings.concurrency
        return max(LEAST_CLAIMED, slots // 2) if self._backend.rounds_overlap else slots

    async def _finish_and_claim(self, request: ClaimRequest | None) -> tuple[list[bool], list[Claim]]:
        """Call the backend, and start what was claimed before.

        A cancellation waits for the answer, so that claims are given back, not forgotten.
        """
        call = asyncio.ensure_future(self._backend.afinish_and_claim(self._unwritten, request))
        try:
            if self._claimed:
                await asyncio.sleep(0)  # The writer's thread gets the round,
                let_threads_run(HANDOVER)  # and sends it before this one is busy with the tasks.
                self._start_claimed()
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._execution.give_back()  # as above
            await asyncio.wait([call])
            if not call.cancelled() and call.exception() is None:
                held, claims = call.result()
                self._written(held)
                self._claimed += claims
            raise

    def _written(self, held: Sequence[bool]) -> None:
        for outcome, holds in zip(self._unwritten, held, strict=True):
            if not holds:
                fields = {"event": "outcome_dropped", "task_id": outcome.token.task_id, "worker_id": self._worker_id}
                logger.warning("outcome dropped, the claim was lost", extra=fields)
        self._unwritten = []
        self._last_answer = time.monotonic()

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
        claimed = [claim.token for claim in self._claimed.copy()]
        return [*claimed, *self._execution.tokens(), *(outcome.token for outcome in outcomes)]

    def _lose(self, tokens: list[Token]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._lose_now, tokens)

    def _lose_now(self, tokens: list[Token]) -> None:
        self._claimed = [claim for claim in self._claimed if claim.token not in tokens]
        self._execution.lose(tokens)

    def _notice_isolated(self, waiting: bool) -> None:
        with contextlib.suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(self._isolation.notice, waiting)

    # The end.

    async def _give_back(self) -> None:
        self._execution.give_back()
        await self._execution.finish_giving_back(STOP_GRACE)
        self._unwritten.extend(self._take_outcomes())
        self._unwritten.extend(given_back(claim, at=self._backend.now()) for claim in self._claimed)
        self._claimed = []
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
        await self._rest.stop()
        await asyncio.to_thread(self._join_threads)

    def _join_threads(self) -> None:
        self._heartbeat.join(THREADS_GRACE)
        self._lookout.join(THREADS_GRACE)
        if not self._held_tokens():  # else the worker's death is to be noticed
            self._presence.leave()
