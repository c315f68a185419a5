"""Which tasks wait, and in which order they are to be claimed: in memory, the time an argument."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from ..models import Task, TaskStatus


class _Place(NamedTuple):
    queue: str
    priority: int
    due_at: datetime | None


class WaitingTasks:
    """Due tasks by priority and id, future ones by their time; each queue for itself.

    It keeps what a task said when it was added. Whoever takes an id out looks at the task again.
    """

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._due: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._future: defaultdict[str, list[tuple[datetime, str]]] = defaultdict(list)

    def add(self, task: Task, now: datetime) -> None:
        """Let the task wait for its time, or for a claim if it is due; it leaves the place it had."""
        place = _Place(task.queue, task.priority or 0, task.due_at)
        if self._places.get(task.id) == place:
            return
        self._places[task.id] = place
        if place.due_at is not None and place.due_at > now:
            heapq.heappush(self._future[place.queue], (place.due_at, task.id))
        else:
            heapq.heappush(self._due[place.queue], (-place.priority, task.id))

    def drop(self, task_id: str) -> None:
        """Forget a task; one that does not wait is no error."""
        self._places.pop(task_id, None)

    def pop_due(self, queue: str, now: datetime) -> str | None:
        """Take out the id that is first to be claimed, or return ``None`` if nothing is due."""
        self._let_due(queue, now)
        due = self._due[queue]
        while due:
            negative, task_id = heapq.heappop(due)
            place = self._places.get(task_id)
            if place is not None and (place.queue, -place.priority) == (queue, negative):
                del self._places[task_id]
                return task_id
        return None

    def peek_future(self, queue: str) -> tuple[datetime, str] | None:
        """Return the time and id of the task that is due next, or ``None``; it stays in."""
        future = self._future[queue]
        while future and not self._is_in_place(queue, *future[0]):
            heapq.heappop(future)
        return future[0] if future else None

    def _let_due(self, queue: str, now: datetime) -> None:
        while (first := self.peek_future(queue)) is not None and first[0] <= now:
            _, task_id = heapq.heappop(self._future[queue])
            heapq.heappush(self._due[queue], (-self._places[task_id].priority, task_id))

    def _is_in_place(self, queue: str, due_at: datetime, task_id: str) -> bool:
        place = self._places.get(task_id)
        return place is not None and (place.queue, place.due_at) == (queue, due_at)


class LoneTasks:
    """Tasks that must run alone: first the one that has waited longest, whatever its queue and priority."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, datetime]] = {}

    def add(self, task: Task, now: datetime) -> None:
        """Let the task wait; it leaves the place it had."""
        self._places[task.id] = (task.queue, task.due_at or now)

    def drop(self, task_id: str) -> None:
        """Forget a task; one that does not wait is no error."""
        self._places.pop(task_id, None)

    def pop_due(self, queues: Collection[str], now: datetime) -> str | None:
        """Take out the id that is first to be claimed, or return ``None``."""
        due = self._due_in(queues, now)
        if not due:
            return None
        _, task_id = min(due)
        del self._places[task_id]
        return task_id

    def has_due(self, queues: Collection[str], now: datetime) -> bool:
        """Say whether ``pop_due`` would give an id."""
        return bool(self._due_in(queues, now))

    def _due_in(self, queues: Collection[str], now: datetime) -> list[tuple[datetime, str]]:
        places = self._places.items()
        return [(due_at, task_id) for task_id, (queue, due_at) in places if queue in queues and due_at <= now]


def status_of(task: Task) -> TaskStatus:
    """The task's status; a task that was stored without one is queued."""
    return TaskStatus.read(task.status)


def is_future(due_at: datetime | None, now: datetime) -> bool:
    """Whether a task with this ``due_at`` has to wait for its time."""
    return due_at is not None and due_at > now


def is_waiting_in(task: Task, queue: str) -> bool:
    """Whether the task waits in this queue, due or not."""
    return status_of(task) is TaskStatus.QUEUED and task.queue == queue


def is_claimable(task: Task, queues: Collection[str], now: datetime) -> bool:
    """Whether a worker of these queues may have the task now."""
    return any(is_waiting_in(task, queue) for queue in queues) and not is_future(task.due_at, now)


def matches(task: Task, wanted: Mapping[str, str | None]) -> bool:
    """Whether each of these columns holds the value; ``None`` stands for any."""
    return all(value is None or getattr(task, column) == value for column, value in wanted.items())
