"""A worker's process seen from inside: it tells the log what its worker does, and stops at the point it was told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock, Timer
from typing import Any

from sqlalchemy import Connection

import sitq
from freezing import freeze_here
from sitq.claims import Claim, Outcome

from .evidence import Log

AFTER_CLAIM = "after the claim"
BEFORE_EFFECT = "before the effect"
AFTER_EFFECT = "after the effect"
BEFORE_COMPLETION = "before completion"
IN_COMPLETION = "before the completion's commit"
AFTER_COMPLETION = "after completion"

POINTS = (AFTER_CLAIM, BEFORE_EFFECT, AFTER_EFFECT, BEFORE_COMPLETION, IN_COMPLETION, AFTER_COMPLETION)

IN_STATEMENT = "amid the completion's statement"
"""A point of PostgreSQL alone, whose statement commits itself."""

IN_MIDST = 0.1
"""Seconds after which a statement that was sent is being executed."""


@dataclass(frozen=True)
class Run:
    """One run of a function under one claim."""

    witness: Witness
    number: int
    task: str
    claim: int
    worker: str
    attempt: int

    def tell(self, what: str) -> None:
        fields = {"number": self.number, "task": self.task, "claim": self.claim, "worker": self.worker}
        self.witness.log.write(what, **fields, attempt=self.attempt)

    def take_effect(self) -> None:
        """The work that must not be lost: a line in the log."""
        self.witness.at(BEFORE_EFFECT)
        self.tell("effect")
        self.witness.at(AFTER_EFFECT)


class Witness:
    """Tells what this process does, and sends it a signal when it comes to a point for the nth time."""

    def __init__(self, log: Log, *, point: str | None = None, nth: int = 1, kills: bool = True) -> None:
        self.log = log
        self._point = point
        self._left = nth
        self._kills = kills
        self._backend: sitq.BaseBackend | None = None
        self._lock = Lock()
        self._claims: dict[str, Claim] = {}
        self._completing = False

    def at(self, point: str) -> None:
        """Die here, or stop, if here it is."""
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.log.write("fault")
                self._die_or_freeze(point)

    def _die_or_freeze(self, point: str) -> None:
        if self._kills:
            os.kill(os.getpid(), signal.SIGKILL)
        elif point == IN_COMPLETION:  # where the one that commits is
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.5)  # the signal may reach another thread first
        else:
            freeze_here(self._backend)

    def begin(self, number: int, task: sitq.CurrentTask) -> Run:
        """A function begins, under the claim that this process holds."""
        claim = self._claims[task.id]
        run = Run(self, number, task.id, claim.claim_count, claim.worker_id, task.attempt)
        run.tell("began")
        return run

    # What the worker asks of its backend.

    def watch(self, backend: sitq.BaseBackend) -> None:
        """Be told of every claim and ending, and of what this worker puts back."""
        self._backend = backend
        rounds, finish = backend.afinish_and_claim, backend.afinish

        async def afinish_and_claim(outcomes: Sequence[Outcome], request: Any) -> tuple[list[bool], list[Claim]]:
            self._before(outcomes)
            held, claims = await rounds(outcomes, request)
            self._after(outcomes, held)
            self._claimed(claims)
            return held, claims

        async def afinish(outcomes: Sequence[Outcome]) -> list[bool]:
            self._before(outcomes)
            held = await finish(outcomes)
            self._after(outcomes, held)
            return held

        backend.afinish_and_claim, backend.afinish = afinish_and_claim, afinish  # type: ignore[method-assign]
        for verb in ("reap", "reap_workers"):
            setattr(backend, verb, self._telling_of_reaped(getattr(backend, verb)))

    def _before(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            self.at(BEFORE_COMPLETION)
        for outcome in outcomes:
            self.log.write("finishing", **told(outcome))
        self._completing = bool(outcomes)

    def _after(self, outcomes: Sequence[Outcome], held: Sequence[bool]) -> None:
        self._completing = False
        if outcomes:
            self.at(AFTER_COMPLETION)
        for outcome, holds in zip(outcomes, held, strict=True):
            self.log.write("finished", **told(outcome), held=holds)

    def _claimed(self, claims: Sequence[Claim]) -> None:
        if claims:
            self.at(AFTER_CLAIM)
        for claim in claims:
            self._claims[claim.id] = claim
            self.log.write("claimed", task=claim.id, claim=claim.claim_count, worker=claim.worker_id)

    def _telling_of_reaped(self, reap: Callable[..., list[str]]) -> Callable[..., list[str]]:
        def telling(*args: Any) -> list[str]:
            reaped = reap(*args)
            for task_id in reaped:
                self.log.write("reaped", task=task_id)
            return reaped

        return telling

    def before_commit(self, *_: object) -> None:
        """The database is about to be told to commit."""
        if self._completing:
            self.at(IN_COMPLETION)

    def before_statement(
        self, _: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        """Let a completion that commits itself take a while on the server, and come to the point meanwhile."""
        if self._completing and cursor.connection.autocommit and statement.startswith("WITH"):
            statement += f" WHERE (SELECT pg_sleep({2 * IN_MIDST})) IS NOT NULL"
            Timer(IN_MIDST, self.at, [IN_STATEMENT]).start()
        return statement, parameters


def told(outcome: Outcome) -> dict[str, Any]:
    """What the log says of an ending."""
    token = outcome.token
    return {
        "task": token.task_id,
        "claim": token.claim_count,
        "worker": token.worker_id,
        "status": outcome.status.value,
    }


_present: list[Witness] = []


def call(witness: Witness) -> None:
    """Make this the witness of the process."""
    _present[:] = [witness]


def present() -> Witness:
    """The witness of the process."""
    return _present[0]
