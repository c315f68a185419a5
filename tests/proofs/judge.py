"""The judge of a simulation: looks at the rows after each commit, and says which of them changed without a reason.

What it holds against the store: no committed enqueue is lost; a task is claimed only when nobody holds it, and each
claim has a token of its own; only the holder of a claim ends it (no stale write); a claim is taken away only when
its lease has lapsed or its worker has died, and a lease lapses only when something was wrong; attempts and crashes
stay within their limits; a key has one unfinished task; and a result is the one that its task's last ending brought.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sitq.claims import Claim, ClaimRequest, Outcome, Token

ENDED = ("completed", "failed", "cancelled")


class Violation(Exception):  # noqa: N818  # the store's, not the judge's
    """Something happened that must not."""


class Row(NamedTuple):
    """What is looked at of a task."""

    id: str
    status: str
    worker_id: str | None
    claim_count: int
    retry_count: int
    crash_count: int
    isolated: int
    cancel_requested: int
    lease_until: str | None
    max_retries: int

    @property
    def token(self) -> Token | None:
        return Token(self.id, self.worker_id or "", self.claim_count) if self.status == "running" else None


LOOK = f"SELECT {', '.join(Row._fields)} FROM tasks"
MAX_CRASHES = 3


class Judge:
    """Sees every commit.

    ``excuse`` says since when nothing was wrong with a worker: a lease that was granted after that must not lapse.
    ``is_dead`` says whether a worker has died. ``keys`` are those that tasks were enqueued with.
    """

    def __init__(
        self, connection: sqlite3.Connection, now: Callable[[], datetime], excuse: Callable[[Token], float],
        is_dead: Callable[[str], bool], time: Callable[[], float],
    ) -> None:  # fmt: skip
        self._connection = connection
        self._now = now
        self._time = time
        self._excuse = excuse
        self._is_dead = is_dead
        self.rows: dict[str, Row] = {}
        self.keys: dict[str, str | None] = {}
        self.expires: dict[str, datetime | None] = {}
        self._claims: set[Token] = set()
        self._leases: dict[Token, tuple[datetime, float]] = {}  # until when, and granted at which steady time
        self._endings: dict[str, Outcome] = {}

    @property
    def unfinished(self) -> list[str]:
        return [row.id for row in self.rows.values() if row.status not in ENDED]

    def committed(self, verb: str, args: tuple[Any, ...], answer: Any) -> None:
        """Look at what a verb has changed."""
        before, self.rows = self.rows, {row[0]: Row(*row) for row in self._connection.execute(LOOK)}
        lost = before.keys() - self.rows.keys()
        require(not lost, f"{verb} lost {sorted(lost)}")
        getattr(self, f"_after_{verb}", self._nothing_changed)(before, args, answer)
        for task_id, row in self.rows.items():
            if before.get(task_id) != row:
                self._check_limits(row)
                self._check_result(row)
        self._check_keys()

    def begun(self, task_id: str, worker_id: str) -> None:
        """Look at a task that a worker begins: it must be that worker's, unless something was wrong with it."""
        row = self.rows[task_id]
        if row.status == "running" and row.worker_id == worker_id:
            return
        latest = max((token for token in self._leases if token[:2] == (task_id, worker_id)), key=lambda each: each[2])
        excused = self._excuse(latest) >= self._leases[latest][1]
        require(excused, f"{worker_id} begins {row}, which is not its own any more")

    # What each verb may change. What it may not is compared in the end.

    def _nothing_changed(self, before: dict[str, Row], args: tuple[Any, ...], answer: Any) -> None:
        self._compare(before)

    def _after_enqueue(self, before: dict[str, Row], args: tuple[Any, ...], answer: list[str]) -> None:
        require(set(answer) <= self.rows.keys(), "an enqueue was acknowledged, and its task is not there")
        may_change = [task_id for task_id in answer if task_id not in before or before[task_id].status == "queued"]
        require(all(self.rows[task_id].status == "queued" for task_id in may_change), "a new task does not wait")
        self._compare(before | {task_id: self.rows[task_id] for task_id in may_change})

    def _after_cancel(self, before: dict[str, Row], args: tuple[Any, ...], answer: Any) -> None:
        after = dict(before)
        for task_id in args[0]:
            row = before[task_id]
            if row.status == "queued":
                after[task_id] = row._replace(status="cancelled", worker_id=None, lease_until=None)
                self._endings.pop(task_id, None)
            elif row.status == "running":
                after[task_id] = row._replace(cancel_requested=1)
        self._compare(after)

    def _after_retry(self, before: dict[str, Row], args: tuple[Any, ...], answer: Any) -> None:
        put_back = {task_id: self.rows[task_id] for task_id in args[0] if answer[task_id] == "queued"}
        for task_id, row in put_back.items():
            require(before[task_id].status in ENDED and row.status == "queued", f"retry of {before[task_id]}")
            require(row.claim_count == before[task_id].claim_count, "a retry must not reuse the numbers of claims")
            self._endings.pop(task_id, None)
        self._compare(before | put_back)

    def _after_finish(self, before: dict[str, Row], args: tuple[Any, ...], answer: list[bool]) -> None:
        self._compare(self._finished(before, args[0], answer))

    def _after_finish_and_claim(self, before: dict[str, Row], args: tuple[Any, ...], answer: Any) -> None:
        outcomes, request = args
        held, claims = answer
        after = self._finished(before, outcomes, held) if outcomes else dict(before)
        if request is not None:
            self._claim(after, request, claims)
        self._compare(after)

    def _after_extend(self, before: dict[str, Row], args: tuple[Any, ...], answer: list[bool]) -> None:
        tokens, lease = args
        until = self._now() + timedelta(seconds=lease)
        after = dict(before)
        for token, holds in zip(tokens, answer, strict=True):
            require(holds == (before[token.task_id].token == token), f"extend said {holds} of {before[token.task_id]}")
            if holds:
                self._leases[token] = (until, self._time())
                after[token.task_id] = before[token.task_id]._replace(lease_until=stored(until))
        self._compare(after)

    def _after_reap(self, before: dict[str, Row], args: tuple[Any, ...], answer: list[str]) -> None:
        for task_id in answer:
            token = before[task_id].token
            require(token in self._leases, f"reap took {before[task_id]}, which nobody held")
            assert token is not None
            until, granted = self._leases[token]
            require(until <= self._now(), f"reap took {before[task_id]} before its lease had lapsed")
            excused = self._is_dead(token.worker_id) or self._excuse(token) >= granted
            require(excused, f"a live task was reaped: nothing was wrong with the worker of {token}")
        self._compare(self._crashed(before, answer))

    def _after_reap_workers(self, before: dict[str, Row], args: tuple[Any, ...], answer: list[str]) -> None:
        for task_id in answer:
            worker_id = before[task_id].worker_id
            require(worker_id in args[0] and self._is_dead(worker_id or ""), f"{worker_id} was taken for dead")
        self._compare(self._crashed(before, answer))

    # Their parts.

    def _finished(self, before: dict[str, Row], outcomes: Sequence[Outcome], held: list[bool]) -> dict[str, Row]:
        after = dict(before)
        for outcome, holds in zip(outcomes, held, strict=True):
            row = after[outcome.token.task_id]
            again = self._endings.get(row.id) == outcome
            mine = row.token == outcome.token
            require(holds == (mine or again), f"stale write: finish said {holds} of {outcome} for {row}")
            if not mine:
                continue
            retries = row.retry_count if outcome.retry_count is None else outcome.retry_count
            isolated = row.isolated if outcome.status == "completed" else 0
            after[row.id] = row._replace(
                status=outcome.status.value, retry_count=retries, isolated=isolated, lease_until=None
            )
            self._endings[row.id] = outcome
        return after

    def _claim(self, after: dict[str, Row], request: ClaimRequest, claims: list[Claim]) -> None:
        until = self._now() + timedelta(seconds=request.lease)
        for claim in claims:
            row = after[claim.id]
            require(row.status == "queued", f"{claim} was claimed while {row}")
            require(claim.token not in self._claims, f"{claim} has the token of another claim")
            require(claim.claim_count == row.claim_count + 1, f"{claim} does not follow {row}")
            require(not claim.isolated or len(claims) == 1, f"{claim} is not alone")
            self._claims.add(claim.token)
            self._leases[claim.token] = (until, self._time())
            self._endings.pop(claim.id, None)
            after[claim.id] = row._replace(
                status="running", worker_id=request.worker_id, claim_count=claim.claim_count,
                isolated=int(claim.isolated), lease_until=stored(until),
            )  # fmt: skip
        for row in list(after.values()):
            if row.status == "queued" and self.rows[row.id].status == "cancelled" and self._unwanted(row):
                after[row.id] = row._replace(status="cancelled", worker_id=None, lease_until=None)
                self._endings.pop(row.id, None)

    def _unwanted(self, row: Row) -> bool:
        expires_at = self.expires[row.id]
        return bool(row.cancel_requested) or (expires_at is not None and expires_at <= self._now())

    def _crashed(self, before: dict[str, Row], reaped: list[str]) -> dict[str, Row]:
        after = dict(before)
        for task_id in reaped:
            row = before[task_id]
            crashes = row.crash_count + row.isolated
            again = crashes < MAX_CRASHES
            after[task_id] = row._replace(
                status="queued" if again else "failed", worker_id=None, lease_until=None, crash_count=crashes,
                isolated=int(again),
            )  # fmt: skip
            self._endings.pop(task_id, None)
        return after

    # What must hold.

    def _compare(self, expected: dict[str, Row]) -> None:
        if self.rows != expected:
            odd = [row for task_id, row in self.rows.items() if expected.get(task_id) != row]
            raise Violation("; ".join(f"{row} should be {expected.get(row.id)}" for row in odd))

    def _check_limits(self, row: Row) -> None:
        require(row.retry_count <= row.max_retries, f"{row} was retried too often")
        require(row.crash_count <= MAX_CRASHES, f"{row} ran after too many crashes")

    def _check_result(self, row: Row) -> None:
        results = self._connection.execute("SELECT value FROM results WHERE task_id = ?", (row.id,)).fetchall()
        require(len(results) == (row.status in ENDED), f"{row} has {len(results)} results")
        ending = self._endings.get(row.id)
        if row.status == "completed":
            require(ending is not None and results == [(ending.value,)], f"{row} has a result of another attempt")

    def _check_keys(self) -> None:
        held = [key for task_id in self.unfinished if (key := self.keys[task_id]) is not None]
        require(len(held) == len(set(held)), f"a key has two unfinished tasks: {held}")


def stored(moment: datetime) -> str:
    """A time as SQLite keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def require(holds: object, violation: str) -> None:
    if not holds:
        raise Violation(violation)
