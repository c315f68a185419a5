"""Child processes of a worker, in which functions run that were enqueued with ``executor="process"``.

A child runs one task after the other. It gets the payload's bytes and gives back how the attempt ended, so that
the worker itself never loads the function. It ends with its worker, whichever way that ends.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import IO, Any, NamedTuple, TypeAlias

import cloudpickle

from .claims import Claim, Outcome, Progress
from .crashes import read_options
from .exceptions import TaskCrashedError
from .secret import Secret

END_GRACE = 5.0
"""Seconds that a child has to end which nobody needs any more."""


class Request(NamedTuple):
    """What a child is to run.

    Attributes:
        claim: the task.
        clock_offset: what to add to this machine's clock to get the database's.
        memory_limit: how many bytes the child may use meanwhile; ``None`` is without limit.
    """

    claim: Claim
    clock_offset: timedelta
    memory_limit: int | None


def runs_in_process(options: str | None) -> bool:
    """Say whether a task's ``options`` column asks for a process of its own."""
    return options is not None and read_options(options).get("executor") == "process"


def request_of(claim: Claim, now: datetime) -> Request:
    """What a child is to run for a claim; ``now`` is the database's time."""
    return Request(claim, now - datetime.now(UTC), read_options(claim.options).get("memory_limit"))


class Reply(NamedTuple):
    """How an attempt ended in a child, and whether the child is still good for another."""

    outcome: Outcome
    stays: bool


OnProgress: TypeAlias = Callable[[Progress], None]


class Child:
    """One child process, ready for tasks. Its verbs block, but for ``kill``, which any thread may call.

    Raises ``TaskCrashedError`` if it ends before it is ready.
    """

    def __init__(self, serializer: bytes) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sitq.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not in the terminal's foreground: whether Ctrl-C ends its task is the worker's to say.
            process_group=0 if sys.platform != "win32" else None,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._replies: IO[bytes] = self._process.stdout
        self._send((sys.path, serializer))
        try:
            self._receive()  # that it is ready: what it imports takes none of the task's time
        except BaseException:
            self.close()
            raise

    def run(self, request: Request, on_progress: OnProgress) -> Reply:
        """Run a task and return how it ended; raise ``TaskCrashedError`` if the child ended before it."""
        self._send(request)
        while not isinstance(message := self._receive(), Reply):
            on_progress(message)
        return message

    def kill(self) -> None:
        """End it at once, and what it runs."""
        self._process.kill()

    def close(self) -> None:
        """End it, and leave nothing of it behind."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel ends when that lets it
            self._process.wait(END_GRACE)
        self._replies.close()
        with suppress(OSError):  # what was not sent yet can go nowhere now
            self._requests.close()

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError):  # the reply will tell
            pickle.dump(message, self._requests)
            self._requests.flush()

    def _receive(self) -> Any:
        try:
            return pickle.load(self._replies)
        except (EOFError, pickle.UnpicklingError, OSError):
            raise TaskCrashedError(f"the process of the task {self._how_it_ended()}") from None

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(END_GRACE)
        except subprocess.TimeoutExpired:
            return "stopped answering"
        if code >= 0:
            return f"ended with exit code {code} before the task had ended"
        if -code == getattr(signal, "SIGKILL", None):
            return "was killed by SIGKILL, perhaps since the memory was used up"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"


class ToChild(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles what goes through the pipe to a child, also secrets: the pipe is the worker's own."""

    def reducer_override(self, value: Any) -> Any:
        """Say how a value is rebuilt."""
        return (Secret, (value.reveal(),)) if isinstance(value, Secret) else super().reducer_override(value)


class Children:
    """The children of a worker: each is started when a task needs it, kept for the next, and replaced if it dies.

    Args:
        serializer: loads calls and dumps results in the children; it is pickled on its way there.
        limit: how many run at once, at most.
    """

    def __init__(self, serializer: object, limit: int) -> None:
        self._serializer = serializer
        self._free = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._closed = False

    def run(
        self, request: Callable[[], Request], on_start: Callable[[Child], None], on_progress: OnProgress
    ) -> Outcome:
        """Run a task in a child, as soon as one is free, and return how it ended.

        Args:
            request: what to run; asked when the child is there.
            on_start: told of the child just before it gets the task.
            on_progress: told of what the task reports.

        Raises:
            TaskCrashedError: the child died.
        """
        with self._free:
            child = self._take()
            stays = False
            try:
                on_start(child)
                outcome, stays = child.run(request(), on_progress)
            finally:
                self._put_back(child, stays)
        return outcome

    def close(self) -> None:
        """End the children that run nothing, and the others after what they run."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def _take(self) -> Child:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        serializer = BytesIO()
        ToChild(serializer).dump(self._serializer)
        return Child(serializer.getvalue())

    def _put_back(self, child: Child, stays: bool) -> None:
        with self._lock:
            if stays and not self._closed:
                self._idle.append(child)
                return
        child.close()
