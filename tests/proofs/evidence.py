"""The log that tasks, workers and enqueuers keep of what they do, beside the database and not in it.

One JSON object a line. Each line is one write to a file opened to append, so that lines of several processes
stand whole and in the order in which they were written, and a process that is killed loses none.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sitq


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of the log.

    Attributes:
        what: what happened: see ``Log.write`` and who calls it.
        at: when, by the steady clock that all processes of the machine share.
        process: who wrote the line; for ``killed`` and ``stopped``, whom it is about.
        number: which of the enqueued calls it is about; the enqueuer counts them.
        task: the task's id.
        claim: the number of the claim.
        worker: the worker's id.
        attempt: what ``current_task().attempt`` said.
        status: of an ending: what was to be written.
        held: of an ending: whether the claim still held, so that it was written.
        max_retries: of an enqueueing: how many of its failures may be retried.
        ends: of an enqueueing: how it has to end.
    """

    what: str
    at: float = 0.0
    process: int = 0
    number: int | None = None
    task: str | None = None
    claim: int | None = None
    worker: str | None = None
    attempt: int | None = None
    status: str | None = None
    held: bool | None = None
    max_retries: int = 0
    ends: str = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the database says of a task in the end. ``value`` is the number of the claim that its function saw."""

    task: str
    status: str = "completed"
    claim: int = 1
    worker: str | None = None
    retry_count: int = 0
    crash_count: int = 0
    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of a run.

    Attributes:
        events: the log, in its order.
        rows: every task in the database.
        lapses: whether the fault may let leases of live workers lapse, so that a task runs twice at once.
        max_crashes: after so many crashes while it ran alone a task fails; ``None`` is without limit.
    """

    events: Sequence[Event]
    rows: Sequence[Row]
    lapses: bool = False
    max_crashes: int | None = 3
    by_what: dict[str, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for event in self.events:
            self.by_what.setdefault(event.what, []).append(event)

    def of(self, what: str) -> list[Event]:
        """The events of one kind, in the order of the log."""
        return self.by_what.get(what, [])

    @property
    def dead(self) -> set[int]:
        """Processes that were killed."""
        return {event.process for event in self.of("killed")}


class Log:
    """A log to append to, from any thread and process."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, what: str, **fields: Any) -> None:
        """Append a line about something that happens now."""
        line = {"what": what, "at": time.monotonic(), "process": os.getpid(), **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def read(self) -> list[Event]:
        """Everything so far."""
        return [Event(**json.loads(line)) for line in self.path.read_text().splitlines()]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def rows_of(backend: sitq.BaseBackend, limit: int = 1_000_000) -> list[Row]:
    """Every task in the database, and the value that it bears."""
    load = sitq.CloudpickleSerializer().load_result
    found = []
    for task in backend.list_tasks(limit=limit):
        result = backend.get_result(task.id)
        value = None if result is None or result.value is None else load(result.value, task_id=task.id)
        found.append(
            Row(
                task=task.id,
                status=str(task.status),
                claim=task.claim_count,
                worker=task.worker_id,
                retry_count=task.retry_count or 0,
                crash_count=task.crash_count,
                value=value,
            )
        )
    return found
