"""Unique keys, cancelling, putting back and progress, on top of a storage that knows nothing of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from ..claims import CancelResult, Outcome, Progress, RetryResult, TaskRow, Token, unique_key_of
from ..exceptions import DuplicateTaskError
from ..models import Task, TaskStatus
from ..wakeups import CANCELLATIONS, RESULTS, queue_topic
from .inprocess import InProcessClaims
from .waiting import is_future, status_of


class InProcessTasks(InProcessClaims):
    """All that a queue and a worker need. Which task holds a key is remembered; the storage's word counts."""

    def enqueue(self, rows: Sequence[TaskRow]) -> list[str]:
        """Store new tasks whose keys are free; return the ids of those that stand."""
        if not any(row.get("unique_key") for row in rows):
            return super().enqueue(rows)
        with self._lock:
            self._discover()
            new, replaced, standing = self._part(rows)
            super().enqueue(list(new.values()))
            self._holders |= {row["unique_key"]: task_id for task_id, row in new.items() if row.get("unique_key")}
            for task_id, row in replaced.items():
                self._replace(task_id, row)
        return standing

    def _part(self, rows: Sequence[TaskRow]) -> tuple[dict[str, TaskRow], dict[str, TaskRow], list[str]]:
        """Part rows into new tasks and those that take the place of others, and say which task stands for each."""
        new: dict[str, TaskRow] = {}
        replaced: dict[str, TaskRow] = {}
        keys: dict[str, str] = {}
        standing: list[str] = []
        for given in rows:
            row = {name: value for name, value in given.items() if name != "on_conflict"}
            key, conflict = row.get("unique_key"), given.get("on_conflict", "skip")
            holder = None if key is None else keys.get(key) or self._holder(key)
            if holder is None:
                new[row["id"]] = row
                keys |= {} if key is None else {key: row["id"]}
            elif conflict == "raise":
                raise DuplicateTaskError(holder)
            elif conflict == "replace":
                (new if holder in new else replaced)[holder] = row | {"id": holder}
            standing.append(holder or row["id"])
        return new, replaced, standing

    def _holder(self, key: str) -> str | None:
        """Return the unfinished task that bears this key."""
        task = self._backend.get_task(self._holders[key]) if key in self._holders else None
        bears = task is not None and task.unique_key == key and not status_of(task).ended
        return task.id if task is not None and bears else None

    def _replace(self, task_id: str, row: TaskRow) -> None:
        """Let a task that only waits become another; one that runs stands."""
        present = self._backend.get_task(task_id)
        if present is not None and status_of(present) is TaskStatus.QUEUED:
            scheduled = is_future(row.get("due_at"), self._backend.now())
            self._refile(Task(**{**row, "scheduled": scheduled, "claim_count": present.claim_count}))

    def _file(self, task_id: str) -> None:
        super()._file(task_id)
        task = self._backend.get_task(task_id)
        if task is not None and task.unique_key is not None:
            self._holders[task.unique_key] = task_id

    def _refile(self, task: Task) -> None:
        """Store a task that waits, and let it wait where it belongs."""
        self._backend.store_task(task)
        self._file(task.id)
        self.wakeups.notify([queue_topic(task.queue)])

    # Cancelling.

    def cancel(self, task_ids: Sequence[str], reason: str | None) -> dict[str, CancelResult]:
        """End queued tasks, and mark running ones."""
        with self._lock:
            results = {task_id: self._cancel_one(task_id, reason) for task_id in task_ids}
        self.wakeups.notify([RESULTS, CANCELLATIONS])
        return results

    def _cancel_one(self, task_id: str, reason: str | None) -> CancelResult:
        task = self._backend.get_task(task_id)
        if task is None:
            return CancelResult.UNKNOWN
        if status_of(task).ended:
            return CancelResult.ENDED
        if status_of(task) is TaskStatus.RUNNING:
            self._backend.store_task(dataclasses.replace(task, cancel_requested=True, error_message=reason))
            return CancelResult.REQUESTED
        token, now = Token(task_id, "", task.claim_count), self._backend.now()
        self._end(task, Outcome(token=token, status=TaskStatus.CANCELLED, at=now, error_message=reason))
        self._drop(task_id)
        return CancelResult.CANCELLED

    def cancel_requests(self, tokens: Sequence[Token]) -> dict[Token, str | None]:
        """Which claims hold tasks that are to be cancelled, and why."""
        held = self._held_tasks(tokens)
        return {token: task.error_message for token, task in held.items() if task.cancel_requested}

    # Progress.

    def write_progress(self, reports: Sequence[Progress]) -> list[bool]:
        """Keep the latest word of tasks whose claims hold."""
        latest = {report.token: report for report in reports}
        with self._lock:
            held = self._held_tasks(list(latest))
            for token, task in held.items():
                report = latest[token]
                said = dataclasses.replace(task, progress=report.fraction, progress_note=report.note)
                self._backend.store_task(said)
        return [report.token in held for report in reports]

    def _held_tasks(self, tokens: Sequence[Token]) -> dict[Token, Task]:
        with self._lock:
            return {token: task for token in tokens if (task := self._held_task(token)) is not None}

    # Putting back.

    def retry(self, task_ids: Sequence[str]) -> dict[str, RetryResult]:
        """Put ended tasks back. The storage has no verb that removes a result; the next one takes its place."""
        with self._lock:
            self._discover()
            return {task_id: self._retry_one(task_id) for task_id in task_ids}

    def _retry_one(self, task_id: str) -> RetryResult:
        task = self._backend.get_task(task_id)
        if task is None:
            return RetryResult.UNKNOWN
        if not status_of(task).ended:
            return RetryResult.UNFINISHED
        key = unique_key_of(task.options)
        if key is not None and self._holder(key) is not None:
            return RetryResult.DUPLICATE
        self._refile(as_new(task, key, self._backend.now()))
        return RetryResult.QUEUED


def as_new(task: Task, key: str | None, now: datetime) -> Task:
    """A copy of the task as it was enqueued, but for the history of its errors and the number of its claims."""
    return dataclasses.replace(
        task,
        status=TaskStatus.QUEUED.value,
        unique_key=key,
        due_at=now,
        scheduled=False,
        started_at=None,
        completed_at=None,
        expires_at=None,
        error_message=None,
        retry_count=0,
        crash_count=0,
        isolated=False,
        worker_id=None,
        lease_until=None,
        cancel_requested=False,
        progress=None,
        progress_note=None,
    )
