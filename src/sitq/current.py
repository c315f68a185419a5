"""``sitq.current_task()``: what a running function can know of its task, and tell about it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import TypeAlias

from .exceptions import NotInTaskError
from .failures import shorten
from .options import check_number, refuse

LONGEST_NOTE = 1_000
"""A longer note of progress loses its middle, in characters."""

Report: TypeAlias = Callable[[float, str | None], None]
"""Takes how far a task is, from 0 to 1, and a note; callable from any thread."""


class CurrentTask:
    """The task that runs here. Its attributes are there to be read.

    Attributes:
        id: the task's id.
        name: the dotted name of its function, or ``None`` where the task was enqueued without one.
        queue: the queue that it came from.
        attempt: 1 for the first, and one more after each failure that was retried.
        deadline: the moment at which its ``timeout`` is over, aware and in UTC; ``None`` without one.
    """

    __slots__ = ("_cancelled", "_report", "attempt", "deadline", "id", "name", "queue", "reason", "said")

    def __init__(
        self, task_id: str, *, name: str | None, queue: str, attempt: int, deadline: datetime | None, report: Report
    ) -> None:
        self.id = task_id
        self.name = name
        self.queue = queue
        self.attempt = attempt
        self.deadline = deadline
        self.reason: str | None = None
        self.said: tuple[float, str | None] | None = None
        self._report = report
        self._cancelled = False

    def __repr__(self) -> str:
        return f"CurrentTask(id={self.id!r}, name={self.name!r}, attempt={self.attempt})"

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked for the task to be cancelled.

        A function in a thread should look now and then, and raise ``sitq.Cancel()``; an async one is
        cancelled by the worker.
        """
        return self._cancelled

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far the task is; ``queue.get_task`` shows it as ``progress`` and ``progress_note``.

        It is cheap and never waits: the worker writes the latest word of each task a few times a second.

        Args:
            fraction: from 0 to 1.
            note: what it does just now; ``None`` leaves no note.

        Raises:
            ConfigurationError: an argument is not what it has to be.
        """
        if note is not None and not isinstance(note, str):
            refuse("note", note, "a text")
        self.said = (
            check_number("fraction", fraction, at_least=0, at_most=1),
            None if note is None else shorten(note, LONGEST_NOTE),
        )
        self._report(*self.said)

    def cancel(self, reason: str | None) -> None:
        """Called by the worker: let the function see that it is to end."""
        self.reason = reason
        self._cancelled = True


_current: ContextVar[CurrentTask] = ContextVar("sitq_current_task")


def current_task() -> CurrentTask:
    """Return the task in which this code runs, whether on an event loop or in the thread that a worker gave it.

    Raises:
        NotInTaskError: no worker runs this code. So it is in a thread that the function started by itself,
            unless it ran it in a copy of its context, as ``asyncio.to_thread`` does.
    """
    try:
        return _current.get()
    except LookupError:
        raise NotInTaskError("no task runs here: current_task() works in functions that a worker has called") from None


def set_current(task: CurrentTask) -> None:
    """Let ``current_task`` return this task in the present context."""
    _current.set(task)
