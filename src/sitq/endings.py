"""How a task ended: waiting for it, and what the stored result means to the caller.

The rules are plain functions. ``endings`` waits on a thread; ``EndingsWatch`` waits on an event loop, with
one look at the backend for all who wait there. Both are woken by endings in this process, and poll for
those in others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .backends.base import BaseBackend
from .exceptions import InvalidArgumentError, TaskCancelledError, TaskFailedError, TaskNotFoundError
from .models import Result, ResultMixin, TaskStatus
from .options import check_seconds
from .serialization import Serializer
from .wakeups import RESULTS, LoopSubscription, Wakeups

POLL = 0.1  # seconds between looks for what other processes have ended
POLL_IF_HEARING = 0.5  # seconds, where they tell
DEAR = 0.01  # seconds; after a look that took longer, as long again is left to others

CANCELLED = f"{TaskCancelledError.__module__}.{TaskCancelledError.__qualname__}"


class Ending(NamedTuple):
    """A task that has ended, and how."""

    task_id: str
    status: TaskStatus


def check_task_id(task_id: object) -> str:
    """Return a task's id, or raise ``InvalidArgumentError`` for what cannot be one."""
    if not isinstance(task_id, str) or not task_id:
        raise InvalidArgumentError(f"a task's id is the text that enqueue returned, not {task_id!r}")
    return task_id


def check_task_ids(task_ids: object) -> dict[str, None]:
    """Return ids, each once and in the order given, or raise ``InvalidArgumentError``."""
    if isinstance(task_ids, str | bytes) or not isinstance(task_ids, Iterable):
        raise InvalidArgumentError(f"ids must be an iterable of ids, not {type(task_ids).__name__}")
    return dict.fromkeys(check_task_id(task_id) for task_id in task_ids)


def check_wait(timeout: object) -> float | None:
    """Return how long to wait in seconds; ``None`` is without limit, 0 looks once."""
    return None if timeout is None else check_seconds("timeout", timeout)


def settle(ending: Ending, stored: Result | None) -> Result:
    """The result of an ended task; where none was stored, because its status was set by hand, one that says so."""
    if stored is not None:
        return stored
    task_id, status = ending
    if status is TaskStatus.COMPLETED:
        return Result(task_id=task_id)
    return Result(
        task_id=task_id,
        is_error=True,
        error_message=f"no result was stored; the task's status is {status.value!r}",
        error_type=CANCELLED if status is TaskStatus.CANCELLED else None,
    )


def unwrap(result: object, serializer: Serializer) -> Any:
    """The function's return value, or the error that the result stands for, raised."""
    if not isinstance(result, ResultMixin):
        raise InvalidArgumentError(f"unwrap needs a Result, not {type(result).__name__}")
    if result.error_type == CANCELLED:
        raise TaskCancelledError(result.task_id, result.error_message)
    if result.is_error:
        raise TaskFailedError(
            result.task_id, result.error_message, error_type=result.error_type, traceback=result.traceback
        )
    return None if result.value is None else serializer.load_result(result.value, task_id=result.task_id)


def take_ended(pending: dict[str, None], statuses: Mapping[str, TaskStatus]) -> list[Ending]:
    """Take the ended tasks out of ``pending``; raise ``TaskNotFoundError`` for the first that is unknown."""
    for task_id in pending:
        if task_id not in statuses:
            raise TaskNotFoundError(task_id)
    ended = [Ending(task_id, statuses[task_id]) for task_id in pending if statuses[task_id].ended]
    for ending in ended:
        del pending[ending.task_id]
    return ended


def endings(backend: BaseBackend, pending: dict[str, None], timeout: float | None) -> Iterator[Ending]:
    """Wait on this thread, and give tasks as they end. What is left in ``pending`` had not ended in time."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with backend.wakeups.subscribe((RESULTS,)) as news:
        while pending:
            began = time.monotonic()
            yield from take_ended(pending, backend.get_statuses(tuple(pending)))
            poll = patience(backend.wakeups)
            left = poll if deadline is None else min(poll, deadline - time.monotonic())
            if left <= 0:
                return
            time.sleep(_rest_after(began, left))
            news.wait(left)


def patience(wakeups: Wakeups) -> float:
    """How long to wait for news before the next look, in seconds."""
    return max(POLL, POLL_IF_HEARING) if wakeups.hears else POLL


def _rest_after(began: float, limit: float = POLL) -> float:
    took = time.monotonic() - began
    return min(took, limit) if took > DEAR else 0.0


class EndingsWatch:
    """Waits for endings on event loops; on each loop, one look at the backend serves all who wait there."""

    def __init__(self, backend: BaseBackend) -> None:
        self._backend = backend
        self._watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWatch] = WeakKeyDictionary()

    async def endings(self, pending: dict[str, None], timeout: float | None) -> AsyncIterator[Ending]:
        """Give tasks as they end. What is left in ``pending`` had not ended in time."""
        if timeout != 0:
            async for ending in self._watched(pending, timeout):
                yield ending
        if pending:  # Time is up, perhaps before the first look.
            for ending in take_ended(pending, await self._backend.aget_statuses(tuple(pending))):
                yield ending

    async def _watched(self, pending: dict[str, None], timeout: float | None) -> AsyncIterator[Ending]:
        loop = asyncio.get_running_loop()
        watch = self._watches.setdefault(loop, _LoopWatch(self._backend))
        deadline = None if timeout is None else loop.time() + timeout
        async with watch.waiter(pending) as waiter:
            while (pending or waiter.ended) and await watch.woken(waiter, deadline):
                for ending in waiter.take():
                    yield ending
        for ending in waiter.take():  # seen while the last ones were handed over, or as the time was up
            yield ending


class _Waiter:
    """One who waits: what has not ended yet, and what has and was not taken yet."""

    def __init__(self, pending: dict[str, None]) -> None:
        self.pending = pending
        self.ended: list[Ending] = []
        self.error: BaseException | None = None
        self.news = asyncio.Event()

    def look(self, statuses: Mapping[str, TaskStatus]) -> None:
        try:
            self.ended += take_ended(self.pending, statuses)
        except TaskNotFoundError as exc:
            self.error = exc
        if self.ended or self.error:
            self.news.set()

    def stop(self, error: BaseException | None) -> None:
        self.error = error
        self.news.set()

    def take(self) -> list[Ending]:
        if self.error:
            raise self.error
        self.news.clear()
        taken, self.ended = self.ended, []
        return taken


class _LoopWatch:
    """The waiters of one event loop, and the task that looks for all of them."""

    def __init__(self, backend: BaseBackend) -> None:
        self._backend = backend
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None
        self._news: LoopSubscription | None = None
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    @asynccontextmanager
    async def waiter(self, pending: dict[str, None]) -> AsyncIterator[_Waiter]:
        waiter = _Waiter(pending)
        self._waiters.add(waiter)
        self._look_now()
        try:
            yield waiter
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._look_now()  # for nobody, which ends the looking
                await self._at_rest.wait()  # so that the backend can be closed now

    async def woken(self, waiter: _Waiter, deadline: float | None) -> bool:
        """Wait until the waiter has news, and say so; ``False`` when the time is up."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_all())
            self._looking.add_done_callback(self._stopped)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter.news.wait()
        except TimeoutError:
            return False
        return True

    def _look_now(self) -> None:
        if self._news is not None:
            self._news.wake()

    async def _look_for_all(self) -> None:
        with self._backend.wakeups.asubscribe((RESULTS,)) as self._news:
            while self._waiters:
                began = time.monotonic()
                await self._look(tuple(self._waiters))
                await asyncio.sleep(_rest_after(began))
                await self._news.await_wake(patience(self._backend.wakeups))

    async def _look(self, waiters: tuple[_Waiter, ...]) -> None:
        asked = dict.fromkeys(task_id for waiter in waiters for task_id in waiter.pending)
        self._at_rest.clear()
        try:
            statuses = await self._backend.aget_statuses(tuple(asked))
        finally:
            self._at_rest.set()
        for waiter in self._waiters.intersection(waiters):  # who has left meanwhile looks for himself
            waiter.look(statuses)

    def _stopped(self, looking: asyncio.Task[None]) -> None:
        self._news = self._looking = None  # they know the loop, and would keep it alive
        error = None if looking.cancelled() else looking.exception()
        for waiter in self._waiters:
            # Who still waits gets the error or, if somebody cancelled the looking, begins it again.
            waiter.stop(error)
