"""What a task's function raises to say how its attempt ends. These are no errors, so they stand beside their tree.

::

    TaskControl
    ├── Retry     run me again later; it counts as a failure that was retried
    ├── Snooze    run me again later; it does not count
    └── Cancel    I am not needed any more

They may be raised from however deep in the code, and leave the worker alone: the task goes back to the queue,
or ends as cancelled.
"""

from __future__ import annotations

from .options import Seconds, check_seconds


class TaskControl(Exception):  # noqa: N818  # what is raised here is no error
    """The root of what a task's function raises to say how its attempt ends."""


class Retry(TaskControl):
    """Run the task again, as after a failure: it counts, and after ``max_retries`` of them the task fails.

    Args:
        delay: after how long; what the task's options say unless given. Seconds or a ``timedelta``.
        reason: goes into the history of its errors.
    """

    def __init__(self, delay: Seconds | None = None, reason: str | None = None) -> None:
        super().__init__(reason or "the task asked to be run again")
        self.delay = None if delay is None else check_seconds("delay", delay)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return Retry, (self.delay, self.reason)


class Snooze(TaskControl):
    """Put the task back into the queue, as if it had not been begun: it counts as no failure.

    Args:
        delay: after how long it is due again. Seconds or a ``timedelta``.
    """

    def __init__(self, delay: Seconds) -> None:
        super().__init__("the task asked to be run later")
        self.delay = check_seconds("delay", delay)

    def __reduce__(self) -> tuple[object, ...]:
        return Snooze, (self.delay,)


class Cancel(TaskControl):
    """End the task as cancelled; whoever waits for its result gets ``TaskCancelledError`` with the reason.

    Args:
        reason: why.
    """

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "the task cancelled itself")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return Cancel, (self.reason,)
