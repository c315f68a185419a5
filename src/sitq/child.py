"""``python -m sitq.child``: the inside of a worker's child process, which runs one task after the other."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import os
import pickle
import signal
import sys
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import IO, Any

from .attempt import Attempt, completed, current_of, failed, raised
from .children import Reply, Request
from .claims import Outcome, Progress
from .current import set_current
from .failures import describe
from .serialization import Payload, Serializer
from .tasks import options_of

PR_SET_PDEATHSIG = 1
READY = "ready"


def serve() -> None:
    """Run what the worker sends, until it closes the pipe or dies."""
    die_with_parent()
    requests, replies = take_over_pipes()
    path, serializer = pickle.load(requests)
    sys.path[:] = path
    waiting: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=read_requests, args=(requests, waiting), daemon=True).start()
    server = Server(pickle.loads(serializer), replies)
    server.send(READY)
    while server.answer(waiting.get()):
        pass


def die_with_parent() -> None:
    """On Linux, be killed when the worker is: a function that holds the interpreter's lock hears of no pipe."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_over_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Keep the pipes to the worker to ourselves; tasks read nothing, and print to standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return requests, replies


def read_requests(requests: IO[bytes], waiting: SimpleQueue[Request]) -> None:
    """Hand on what the worker sends, and end this process when the worker is gone."""
    with suppress(EOFError, OSError):
        while True:
            waiting.put(pickle.load(requests))
    os._exit(0)


class Server:
    """Runs tasks and replies."""

    def __init__(self, serializer: Serializer, replies: IO[bytes]) -> None:
        self._serializer = serializer
        self._replies = replies
        self._sending = threading.Lock()

    def answer(self, request: Request) -> bool:
        """Run a task and say how it ended; return whether this process is good for another."""
        attempt = Attempt(request.claim)
        stays = True
        try:
            with memory_limited_to(request.memory_limit):
                outcome = copy_context().run(self._run, attempt, request)
        except MemoryError:
            # Who knows what else had to do without.
            stays, outcome = False, raised(attempt, out_of_memory(request), at=now(request))
        self.send(Reply(outcome, stays))
        return stays

    def _run(self, attempt: Attempt, request: Request) -> Outcome:
        claim = request.claim
        try:
            call = self._serializer.load_call(Payload(claim.function, claim.args, claim.kwargs), task_id=claim.id)
        except MemoryError:
            raise
        except BaseException as exc:  # loading imports and runs the user's code
            return failed(attempt, describe(exc), at=now(request))
        attempt.retry = options_of(call.function).retry
        attempt.current = current_of(claim, now=lambda: now(request), report=self._reporter(request))
        set_current(attempt.current)
        try:
            value = call.function(*call.args, **call.kwargs)
            if inspect.isawaitable(value):
                value = asyncio.run(wait_for(value))
        except MemoryError:
            raise
        except BaseException as exc:  # a task's SystemExit is the task's failure
            return raised(attempt, exc, at=now(request))
        return self._returned(attempt, value, request)

    def _returned(self, attempt: Attempt, value: object, request: Request) -> Outcome:
        try:
            data = self._serializer.dump_result(value, task_id=attempt.claim.id)
        except MemoryError:
            raise
        except BaseException as exc:  # serializing a value runs its own code
            return failed(attempt, describe(exc), at=now(request), answer=False)
        return completed(attempt, data, at=now(request))

    def _reporter(self, request: Request) -> Any:
        def report(fraction: float, note: str | None) -> None:
            self.send(Progress(request.claim.token, fraction, note))

        return report

    def send(self, message: object) -> None:
        """Tell the worker."""
        with self._sending:
            pickle.dump(message, self._replies)
            self._replies.flush()


async def wait_for(value: Awaitable[Any]) -> Any:
    """Await what may be no coroutine."""
    return await value


def now(request: Request) -> datetime:
    """The time by the database's clock."""
    return datetime.now(UTC) + request.clock_offset


def out_of_memory(request: Request) -> MemoryError:
    """The error of a function that needed more memory than there was."""
    limit = request.memory_limit
    return MemoryError("there was no more memory" if limit is None else f"more than memory_limit={limit} bytes needed")


@contextmanager
def memory_limited_to(limit: int | None) -> Iterator[None]:
    """Let this process have no more than so many bytes of memory meanwhile."""
    if limit is None:
        yield
        return
    # Not on Windows, where check_memory_limit has refused the task.
    import resource

    # Only Linux counts what is mapped as data; elsewhere the whole address space is what can be limited.
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    before = resource.getrlimit(kind)
    hard = before[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


if __name__ == "__main__":
    serve()
