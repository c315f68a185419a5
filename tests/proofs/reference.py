"""What each verb of a backend does, in the plainest words: the model beside which the real stores are driven."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sitq import Task, TaskStatus
from sitq.claims import CancelResult, ClaimRequest, IsolatedTasks, Outcome, Progress, RetryResult, Token

QUEUED, RUNNING = TaskStatus.QUEUED, TaskStatus.RUNNING
MAX_CRASHES = 3


class DuplicateError(Exception):
    """An enqueue asked to be refused where its key is held."""


@dataclass
class Row:
    """What must be known of a task to say what each verb does with it."""

    id: str
    queue: str
    priority: int
    function: bytes
    due_at: datetime | None = None
    expires_at: datetime | None = None
    key: str | None = None  # that it was enqueued with
    crash_rule: tuple[str, int] = ("retry", MAX_CRASHES)
    scheduled: bool = False  # it waits for its time
    status: TaskStatus = QUEUED
    retry_count: int = 0
    claim_count: int = 0
    crash_count: int = 0
    worker_id: str | None = None
    lease_until: datetime | None = None
    alone: bool = False  # it waits to run alone
    isolated: bool = False  # it runs alone
    cancel_requested: bool = False
    reason: str | None = None
    progress: tuple[float | None, str | None] = (None, None)
    result: tuple[bool | None, bytes | None] | None = None
    written: Outcome | None = None  # by the latest claim
    touched: bool = False  # by an operator since then

    @property
    def token(self) -> Token | None:
        if self.status is not RUNNING or self.worker_id is None:
            return None
        return Token(self.id, self.worker_id, self.claim_count)

    @property
    def holds(self) -> str | None:
        return None if self.status.ended else self.key

    def columns(self) -> dict[str, Any]:
        """What anybody who looks at the task must see."""
        names = ("queue", "priority", "function", "status", "retry_count", "claim_count", "crash_count", "due_at")
        seen = {name: getattr(self, name) for name in names}
        return seen | {"progress": self.progress[0], "progress_note": self.progress[1]}

    def unwanted(self, now: datetime) -> bool:
        return self.cancel_requested or (self.expires_at is not None and self.expires_at <= now)

    def end(self, status: TaskStatus, value: bytes | None = None) -> None:
        self.status, self.result = status, (status is not TaskStatus.COMPLETED, value)

    def cancel(self) -> None:
        self.end(TaskStatus.CANCELLED)
        self.worker_id, self.written = None, None

    def lease(self, worker_id: str, until: datetime) -> Token:
        self.status, self.worker_id, self.lease_until = RUNNING, worker_id, until
        self.isolated, self.alone, self.scheduled, self.written = self.alone, False, False, None
        self.claim_count += 1
        return Token(self.id, worker_id, self.claim_count)

    def apply(self, outcome: Outcome) -> None:
        self.isolated, self.written, self.touched = False, outcome, False
        if outcome.status.ended:
            self.end(outcome.status, outcome.value)
            return
        self.status, self.scheduled = QUEUED, outcome.due_at is not None and outcome.due_at > outcome.at
        self.due_at = outcome.due_at or self.due_at
        self.retry_count = self.retry_count if outcome.retry_count is None else outcome.retry_count

    def crash(self, now: datetime) -> None:
        """Its worker died: it runs again alone, or has done so too often."""
        on_crash, limit = self.crash_rule
        self.crash_count += self.isolated
        self.worker_id, self.written = None, None
        if on_crash == "fail" or (self.isolated and 0 < limit <= self.crash_count):
            self.end(TaskStatus.FAILED)
        else:
            self.status, self.alone, self.scheduled, self.due_at = QUEUED, True, True, now
        self.isolated = False

    def renew(self, now: datetime) -> None:
        """An operator puts it back as when it was enqueued."""
        self.status, self.due_at, self.expires_at, self.scheduled = QUEUED, now, None, False
        self.retry_count = self.crash_count = 0
        self.alone = self.isolated = self.cancel_requested = False
        self.worker_id, self.written, self.progress = None, None, (None, None)


@dataclass
class Reference:
    """All tasks, and the verbs. The time comes from ``now``.

    A backend of the ``documented_verbs`` cannot remove a result, and looks again whether a task is due that a step
    back of the clock has made a future one again; on the others it stays due.
    """

    now: Callable[[], datetime]
    documented_verbs: bool = False
    rows: dict[str, Row] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)

    # What a queue does.

    def enqueue(self, new: Sequence[Row], conflicts: Sequence[str]) -> list[str]:
        """The ids of the tasks that stand; raises ``DuplicateError`` with nothing changed."""
        holders = {row.holds: row.id for row in self.rows.values() if row.holds is not None}
        standing, replaced = [], []
        for row, conflict in zip(new, conflicts, strict=True):
            holder = row.id if row.key is None else holders.setdefault(row.key, row.id)
            if holder != row.id and conflict == "raise":
                raise DuplicateError
            if holder != row.id and conflict == "replace":
                replaced.append((holder, row))
            standing.append(holder)
        for row in new:
            row.scheduled = row.due_at is not None and row.due_at > self.now()
        self.rows |= {row.id: row for row, stands in zip(new, standing, strict=True) if row.id == stands}
        for holder, row in replaced:
            self.replace(self.rows[holder], row)
        return standing

    def replace(self, holder: Row, row: Row) -> None:
        if holder.status is QUEUED:
            history = holder.claim_count, holder.worker_id, holder.written, holder.result
            holder.__dict__ |= row.__dict__ | {"id": holder.id, "touched": True}
            holder.claim_count, holder.worker_id, holder.written, holder.result = history

    def cancel(self, task_ids: Sequence[str], reason: str | None) -> dict[str, CancelResult]:
        return {task_id: self.cancel_one(task_id, reason) for task_id in task_ids}

    def cancel_one(self, task_id: str, reason: str | None) -> CancelResult:
        row = self.rows.get(task_id)
        if row is None:
            return CancelResult.UNKNOWN
        if row.status is QUEUED:
            row.cancel()
            return CancelResult.CANCELLED
        if row.status is RUNNING:
            row.cancel_requested, row.reason = True, reason
            return CancelResult.REQUESTED
        return CancelResult.ENDED

    def retry(self, task_ids: Sequence[str]) -> dict[str, RetryResult]:
        """Of several with one key the oldest."""
        return {task_id: self.retry_one(task_id) for task_id in sorted(task_ids)}

    def retry_one(self, task_id: str) -> RetryResult:
        row = self.rows.get(task_id)
        if row is None:
            return RetryResult.UNKNOWN
        if not row.status.ended:
            return RetryResult.UNFINISHED
        if row.key is not None and any(row.key == other.holds for other in self.rows.values()):
            return RetryResult.DUPLICATE
        row.renew(self.now())
        row.result = row.result if self.documented_verbs else None
        return RetryResult.QUEUED

    # What a worker does.

    def claim(self, request: ClaimRequest, given: str | None) -> list[Token]:
        """``given`` is what the backend gave first, where that is left to it."""
        if request.isolated is IsolatedTasks.FIRST and (alone := self.claim_alone(request, given)):
            return alone
        self.release()
        claims: list[Token] = []
        for queue in self.running(request.queues):
            claims += self.claim_from(queue, request, request.limit - len(claims))
        if not claims and request.isolated is IsolatedTasks.LAST:
            return self.claim_alone(request, given)
        return claims

    def claim_from(self, queue: str, request: ClaimRequest, limit: int) -> list[Token]:
        """The highest priority first, then the oldest; what is not to run any more ends on the way."""
        claims: list[Token] = []
        for row in self.due_in(queue):
            if len(claims) == limit:
                break
            if row.unwanted(self.now()):
                row.cancel()
            else:
                claims.append(row.lease(request.worker_id, self.now() + timedelta(seconds=request.lease)))
        return claims

    def claim_alone(self, request: ClaimRequest, given: str | None) -> list[Token]:
        """The one that has waited longest, whatever its queue and priority; of those put back together any."""
        alone = self.alone_in(request.queues)
        wanted = [row for row in alone if not row.unwanted(self.now())]
        longest = wanted[:1] + [row for row in wanted if row.due_at == wanted[0].due_at and row.id == given]
        for row in alone:
            if row.unwanted(self.now()) and (not wanted or self.order(row) < self.order(wanted[0])):
                row.cancel()
        return [row.lease(request.worker_id, self.now() + timedelta(seconds=request.lease)) for row in longest[-1:]]

    def release(self) -> None:
        for row in self.waiting():
            if not row.alone and row.due_at is not None and row.due_at <= self.now():
                row.scheduled = False

    def finish(self, outcomes: Sequence[Outcome]) -> list[bool | None]:
        return [self.finish_one(outcome) for outcome in outcomes]

    def finish_one(self, outcome: Outcome) -> bool | None:
        """Whether the claim held; ``None`` if an operator may have given the task the same looks by hand."""
        row = self.rows[outcome.token.task_id]
        if row.token == outcome.token:
            row.apply(outcome)
            return True
        return None if row.touched and row.written == outcome else row.written == outcome

    def extend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        held = [self.rows[token.task_id].token == token for token in tokens]
        for token, holds in zip(tokens, held, strict=True):
            if holds:
                self.rows[token.task_id].lease_until = self.now() + timedelta(seconds=lease)
        return held

    def write_progress(self, reports: Sequence[Progress]) -> list[bool]:
        held = [self.rows[report.token.task_id].token == report.token for report in reports]
        for report, holds in zip(reports, held, strict=True):
            if holds:
                self.rows[report.token.task_id].progress = (report.fraction, report.note)
        return held

    def cancel_requests(self, tokens: Sequence[Token]) -> dict[Token, str | None]:
        rows = {token: self.rows[token.task_id] for token in tokens}
        return {token: row.reason for token, row in rows.items() if row.token == token and row.cancel_requested}

    def reap(self) -> list[str]:
        running = [row for row in self.rows.values() if row.token is not None]
        return self.crash(row for row in running if row.lease_until is not None and row.lease_until <= self.now())

    def reap_workers(self, worker_ids: Sequence[str]) -> list[str]:
        return self.crash(row for row in self.rows.values() if row.token and row.worker_id in worker_ids)

    def crash(self, rows: Iterator[Row]) -> list[str]:
        crashed = list(rows)
        for row in crashed:
            row.crash(self.now())
        return sorted(row.id for row in crashed)

    # What waits.

    def waiting(self) -> list[Row]:
        return [row for row in self.rows.values() if row.status is QUEUED]

    def running(self, queues: Sequence[str]) -> list[str]:
        return [queue for queue in queues if queue not in self.paused]

    def is_due(self, row: Row) -> bool:
        if not self.documented_verbs and not row.scheduled:
            return True
        return row.due_at is None or row.due_at <= self.now()

    def due_in(self, queue: str) -> list[Row]:
        due = [row for row in self.waiting() if row.queue == queue and not row.alone and self.is_due(row)]
        return sorted(due, key=lambda row: (-row.priority, row.id))

    def alone_in(self, queues: Sequence[str]) -> list[Row]:
        names = self.running(queues)
        alone = [row for row in self.waiting() if row.queue in names and row.alone and self.is_due(row)]
        return sorted(alone, key=self.order)

    def order(self, row: Row) -> datetime:
        """Tasks that are to run alone wait since they were put back."""
        return row.due_at or self.now()

    def future_in(self, queues: Sequence[str]) -> list[datetime]:
        rows = [row for row in self.waiting() if row.queue in queues and row.scheduled and not row.alone]
        return [row.due_at for row in rows if row.due_at is not None and row.due_at > self.now()]

    def adopt(self, seen: dict[str, Task], waited: set[str]) -> None:
        """A claim may end more of what waits and is not to run than it comes by, and may count what it ended."""
        for row in (self.rows[task_id] for task_id in waited):
            task = seen[row.id]
            if row.status is QUEUED and row.unwanted(self.now()) and task.status == TaskStatus.CANCELLED:
                row.cancel()
            if row.status is TaskStatus.CANCELLED and task.claim_count == row.claim_count + 1:
                row.claim_count += 1
