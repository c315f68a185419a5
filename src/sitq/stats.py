"""How many tasks there are, by queue and by where they are in their lives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from .models import Task, TaskStatus


class TaskGroup(NamedTuple):
    """Some tasks of one queue in one status, as a storage counted them.

    Attributes:
        queue: the name of the queue.
        status: what the column holds.
        tasks: how many they are.
        scheduled: how many of them wait for a time that is to come.
        retrying: how many of them wait for another attempt.
        oldest_due_at: since when the first of them has been due; ``None`` if none is.
    """

    queue: str
    status: str
    tasks: int
    scheduled: int
    retrying: int
    oldest_due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """How many tasks there are.

    Attributes:
        total_tasks: all of them.
        pending_tasks: those that wait for a worker, due or not.
        running_tasks: those in a worker's hands.
        completed_tasks: those whose function returned.
        failed_tasks: those that failed for good.
        cancelled_tasks: those that were cancelled.
        scheduled_tasks: of the pending ones, those whose time is to come.
        retrying_tasks: of the pending ones, those that have been tried before.
        oldest_due_at: since when the pending task that has been due the longest waits; ``None`` if none is due.
    """

    total_tasks: int = 0
    pending_tasks: int = 0
    running_tasks: int = 0
    completed_tasks: int = 0
    failed_tasks: int = 0
    cancelled_tasks: int = 0
    scheduled_tasks: int = 0
    retrying_tasks: int = 0
    oldest_due_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(TaskCounts):
    """How many tasks a backend holds.

    Attributes:
        queues: the same by the name of the queue, sorted; a queue without tasks is left out.
    """

    queues: Mapping[str, TaskCounts] = field(default_factory=dict)


def group_of(task: Task, now: datetime) -> TaskGroup:
    """A task as a group of one."""
    status = task.status or TaskStatus.QUEUED.value
    waits = status == TaskStatus.QUEUED
    scheduled = waits and task.due_at is not None and task.due_at > now
    due_at = (task.due_at or task.created_at) if waits and not scheduled else None
    return TaskGroup(task.queue, status, 1, int(scheduled), int(waits and bool(task.retry_count)), due_at)


def stats_of(groups: Iterable[TaskGroup]) -> Stats:
    """Add groups up, over all and by queue."""
    by_queue: defaultdict[str, list[TaskGroup]] = defaultdict(list)
    for group in groups:
        by_queue[group.queue].append(group)
    every = [group for some in by_queue.values() for group in some]
    return Stats(**_sums(every), queues={queue: TaskCounts(**_sums(by_queue[queue])) for queue in sorted(by_queue)})


def _sums(groups: Sequence[TaskGroup]) -> dict[str, Any]:
    by_status: Counter[str] = Counter()
    for group in groups:
        by_status[group.status] += group.tasks
    return {
        "total_tasks": by_status.total(),
        "pending_tasks": by_status[TaskStatus.QUEUED],
        "running_tasks": by_status[TaskStatus.RUNNING],
        "completed_tasks": by_status[TaskStatus.COMPLETED],
        "failed_tasks": by_status[TaskStatus.FAILED],
        "cancelled_tasks": by_status[TaskStatus.CANCELLED],
        "scheduled_tasks": sum(group.scheduled for group in groups),
        "retrying_tasks": sum(group.retrying for group in groups),
        "oldest_due_at": min((group.oldest_due_at for group in groups if group.oldest_due_at), default=None),
    }
