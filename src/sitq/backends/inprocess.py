"""What a queue and a worker need of a backend that has only the documented verbs.

The storage keeps tasks and results; which task waits, who claimed it and until when is remembered here,
in the memory of one process, under one lock. So it serves the workers of this process and no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple, Protocol

from ..claims import DEFAULT_LEASE, Claim, ClaimRequest, IsolatedTasks, Outcome, TaskRow, Token, why_unwanted
from ..models import Result, Task, TaskStatus
from ..wakeups import RESULTS, Wakeups, queue_topic
from .outcomes import abandoned, after_outcome, claim_of, crash_of, failed_of_crashes, is_written, result_of
from .waiting import LoneTasks, WaitingTasks, is_claimable, is_future, is_waiting_in, matches, status_of

# How many known tasks one reap looks at again: enough to notice, few enough to stay cheap.
LOOKED_AT_AGAIN = 1_000


class _Storage(Protocol):
    """The documented verbs, as far as they are used here."""

    def store_task(self, task: Task) -> None: ...
    def get_task(self, task_id: str) -> Task | None: ...
    def update_task_status(self, task_id: str, status: str) -> None: ...
    def store_result(self, task_id: str, result: Result) -> None: ...
    def list_all_tasks(self) -> list[str]: ...
    def now(self) -> datetime: ...


class _Lease(NamedTuple):
    token: Token
    until: datetime


class InProcessClaims:
    """Claims, leases and pauses on top of a storage that knows nothing of them.

    It knows the tasks enqueued through it and, if the storage lists (``lists``), those it finds there.
    The storage's word counts: a task is looked at again before it is claimed, extended or finished. What
    somebody changed with ``store_task`` or ``update_task_status`` so that another task comes first, or an
    ended one again, is noticed when leases are reaped.
    """

    def __init__(self, backend: _Storage, *, lists: bool = False) -> None:
        self.wakeups = Wakeups()
        self._backend = backend
        self._lists = lists
        self._lock = threading.RLock()
        self._known: dict[str, None] = {}
        self._waiting = WaitingTasks()
        self._alone = LoneTasks()
        self._leases: dict[str, _Lease] = {}
        self._paused: set[str] = set()
        self._holders: dict[str, str] = {}

    # What a queue needs.

    def enqueue(self, rows: Sequence[TaskRow]) -> list[str]:
        """Store new tasks; if the storage refuses one, those before it are cancelled."""
        now = self._backend.now()
        tasks = [Task(**{**row, "scheduled": is_future(row.get("due_at"), now)}) for row in rows]
        with self._lock:
            self._store_all(tasks)
            for task in tasks:
                self._known[task.id] = None
                self._lane_of(task).add(task, now)
        self._wake_workers(task.queue for task in tasks)
        return [task.id for task in tasks]

    def task_ids(self) -> list[str]:
        """Return every known id, the oldest first."""
        with self._lock:
            return sorted(self._known)

    def list_tasks(
        self, *, status: str | None = None, queue: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[Task]:
        """Return the known tasks that match, the newest first."""
        with self._lock:
            self._discover()
            newest_first = sorted(self._known, reverse=True)
        wanted = {"status": status, "queue": queue, "name": name}
        found = (task for task_id in newest_first if (task := self._backend.get_task(task_id)) is not None)
        matching = (task for task in found if matches(task, wanted))
        return list(islice(matching, limit))

    def pause_queue(self, queue: str) -> None:
        """Give no task of this queue to a claim."""
        with self._lock:
            self._paused.add(queue)

    def resume_queue(self, queue: str) -> None:
        """Give tasks of this queue to claims again."""
        with self._lock:
            self._paused.discard(queue)
        self._wake_workers([queue])

    def paused_queues(self) -> list[str]:
        """Return the paused queues, sorted."""
        with self._lock:
            return sorted(self._paused)

    # What a worker needs.

    def claim(self, request: ClaimRequest) -> list[Claim]:
        """Lease due tasks, queue by queue."""
        now = self._backend.now()
        claims: list[Claim] = []
        with self._lock:
            self._discover()
            if request.isolated is IsolatedTasks.FIRST:
                self._claim_isolated(request, now, claims)
            for queue in self._running(request.queues) if not claims else ():
                self._claim_from(queue, request, now, claims)
            if request.isolated is IsolatedTasks.LAST and not claims:
                self._claim_isolated(request, now, claims)
        return claims

    def finish(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Write each outcome whose claim holds."""
        retried: list[str] = []
        with self._lock:
            held = [self._finish_one(outcome, retried) for outcome in outcomes]
        self._wake_workers(retried)
        self.wakeups.notify([RESULTS])
        return held

    def extend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        """Move the end of each lease whose claim holds."""
        until = self._backend.now() + timedelta(seconds=lease)
        with self._lock:
            held = [self._held_task(token) is not None for token in tokens]
            self._leases.update(
                (token.task_id, _Lease(token, until)) for token, holds in zip(tokens, held, strict=True) if holds
            )
        return held

    def reap(self) -> list[str]:
        """Put lapsed tasks back, and notice what else became claimable."""
        now = self._backend.now()
        with self._lock:
            self._discover()
            reaped = self._crash([lease.token for lease in self._leases.values() if lease.until <= now], now)
            self._look_again()
        return self._tell_of(reaped)

    def reap_workers(self, worker_ids: Sequence[str]) -> list[str]:
        """Put back what these workers hold."""
        with self._lock:
            held = [lease.token for lease in self._leases.values() if lease.token.worker_id in worker_ids]
            reaped = self._crash(held, self._backend.now())
        return self._tell_of(reaped)

    def isolated_waiting(self, queues: Sequence[str]) -> bool:
        """Say whether a task of these queues waits to run alone."""
        with self._lock:
            return self._alone.has_due(self._running(queues), self._backend.now())

    def next_due_at(self, queues: Sequence[str]) -> datetime | None:
        """Return the earliest time for which a task of these queues waits."""
        with self._lock:
            self._discover()
            times = [time for queue in self._running(queues) if (time := self._next_in(queue)) is not None]
        return min(times, default=None)

    # Under the lock: where each id belongs.

    def _running(self, queues: Sequence[str]) -> list[str]:
        return [queue for queue in queues if queue not in self._paused]

    def _discover(self) -> None:
        if self._lists:
            for task_id in set(self._backend.list_all_tasks()) - self._known.keys():
                self._file(task_id)

    def _look_again(self) -> None:
        """Look at every claim, and in turns at the other tasks."""
        for lease in list(self._leases.values()):
            self._held_task(lease.token)
        for task_id in list(islice(self._known, LOOKED_AT_AGAIN)):
            self._known[task_id] = self._known.pop(task_id)  # to the end of the line
            if task_id not in self._leases:
                self._file(task_id)

    def _file(self, task_id: str) -> None:
        """Let the task's stored state decide where its id belongs."""
        task = self._backend.get_task(task_id)
        self._leases.pop(task_id, None)
        if task is None:
            self._known.pop(task_id, None)
            self._drop(task_id)
            return
        self._known.setdefault(task_id)
        if status_of(task) is TaskStatus.QUEUED:
            self._drop(task_id, but_from=self._lane_of(task))
            self._lane_of(task).add(task, self._backend.now())
            return
        self._drop(task_id)
        if status_of(task) is TaskStatus.RUNNING:
            # Whoever runs it, perhaps this process before it was restarted, has a lease's time to end it.
            until = task.lease_until or self._backend.now() + timedelta(seconds=DEFAULT_LEASE)
            self._leases[task_id] = _Lease(Token(task_id, task.worker_id or "", task.claim_count), until)

    def _lane_of(self, task: Task) -> WaitingTasks | LoneTasks:
        """Where a task waits: one that is to run alone apart from the others."""
        return self._alone if task.isolated and task.scheduled else self._waiting

    def _drop(self, task_id: str, *, but_from: WaitingTasks | LoneTasks | None = None) -> None:
        for lane in (self._waiting, self._alone):
            if lane is not but_from:
                lane.drop(task_id)

    def _held_task(self, token: Token) -> Task | None:
        """Return the task if this claim of it still holds, by our memory and by the storage."""
        lease = self._leases.get(token.task_id)
        if lease is None or lease.token != token:
            return None
        task = self._backend.get_task(token.task_id)
        if task is not None and status_of(task) is TaskStatus.RUNNING:
            return task
        self._file(token.task_id)
        return None

    # Under the lock: the steps of the verbs.

    def _store_all(self, tasks: Sequence[Task]) -> None:
        stored: list[Task] = []
        try:
            for task in tasks:
                self._backend.store_task(task)
                stored.append(task)
        except BaseException:
            for task in stored:
                with contextlib.suppress(Exception):
                    self._backend.update_task_status(task.id, TaskStatus.CANCELLED.value)
            raise

    def _crash(self, tokens: Iterable[Token], now: datetime) -> list[Task]:
        """Let each task whose claim holds run again alone, or fail, as the crash rule says."""
        crashed = [task for token in tokens if (task := self._held_task(token))]
        for task in crashed:
            crash = crash_of(task)
            if crash.failure is None:
                self._put_back(abandoned(task, crash, now))
            else:
                counted = dataclasses.replace(task, crash_count=crash.crash_count)
                self._end(counted, failed_of_crashes(counted, crash, now))
        return crashed

    def _claim_isolated(self, request: ClaimRequest, now: datetime, claims: list[Claim]) -> None:
        queues = self._running(request.queues)
        while not claims and (task_id := self._alone.pop_due(queues, now)) is not None:
            self._claim_one(task_id, queues, request, now, claims, alone=True)

    def _claim_from(self, queue: str, request: ClaimRequest, now: datetime, claims: list[Claim]) -> None:
        while len(claims) < request.limit and (task_id := self._waiting.pop_due(queue, now)) is not None:
            self._claim_one(task_id, [queue], request, now, claims, alone=False)

    def _claim_one(
        self, task_id: str, queues: list[str], request: ClaimRequest, now: datetime, claims: list[Claim], *, alone: bool
    ) -> None:
        task = self._backend.get_task(task_id)  # if the storage fails here, reaping finds the task again
        if task is None or not is_claimable(task, queues, now):
            self._file(task_id)
        elif (why := why_unwanted(task.cancel_requested, task.expires_at, now)) is not None:
            self._end_unwanted(task, why, now)
        else:
            claims.append(self._lease(task, request, now, alone=alone))

    def _lease(self, task: Task, request: ClaimRequest, now: datetime, *, alone: bool) -> Claim:
        until = now + timedelta(seconds=request.lease)
        running = dataclasses.replace(
            task,
            status=TaskStatus.RUNNING.value,
            started_at=now,
            scheduled=False,
            isolated=alone,
            worker_id=request.worker_id,
            claim_count=task.claim_count + 1,
            lease_until=until,
        )
        self._backend.store_task(running)
        claim = claim_of(running, request.worker_id)
        self._leases[task.id] = _Lease(claim.token, until)
        return claim

    def _end_unwanted(self, task: Task, why: str, now: datetime) -> None:
        token = Token(task.id, "", task.claim_count)
        self._end(task, Outcome(token=token, status=TaskStatus.CANCELLED, at=now, error_message=why))

    def _finish_one(self, outcome: Outcome, retried: list[str]) -> bool:
        task = self._held_task(outcome.token)
        if task is None:
            return is_written(self._backend.get_task(outcome.token.task_id), outcome)
        if outcome.status is TaskStatus.QUEUED:
            self._put_back(after_outcome(task, outcome))
            retried.append(task.queue)
        else:
            self._end(task, outcome)
        return True

    def _put_back(self, task: Task) -> Task:
        """Let a task wait again, for its ``due_at`` if that is to come."""
        now = self._backend.now()
        scheduled = task.isolated or is_future(task.due_at, now)
        queued = dataclasses.replace(task, status=TaskStatus.QUEUED.value, scheduled=scheduled, lease_until=None)
        self._backend.store_task(queued)
        self._leases.pop(task.id, None)
        self._lane_of(queued).add(queued, now)
        return queued

    def _end(self, task: Task, outcome: Outcome) -> None:
        """Write the result, then the task, and the status last: who sees the end finds the result."""
        self._backend.store_result(task.id, result_of(outcome))
        self._backend.store_task(after_outcome(task, outcome))
        self._backend.update_task_status(task.id, outcome.status.value)
        self._leases.pop(task.id, None)

    def _next_in(self, queue: str) -> datetime | None:
        while (next_up := self._waiting.peek_future(queue)) is not None:
            due_at, task_id = next_up
            task = self._backend.get_task(task_id)
            if task is not None and task.due_at == due_at and is_waiting_in(task, queue):
                return due_at
            self._waiting.drop(task_id)
            self._file(task_id)
        return None

    def _tell_of(self, reaped: Sequence[Task]) -> list[str]:
        self.wakeups.notify({RESULTS, *(queue_topic(task.queue) for task in reaped)} if reaped else ())
        return [task.id for task in reaped]

    def _wake_workers(self, queues: Iterable[str]) -> None:
        self.wakeups.notify({queue_topic(queue) for queue in queues})
