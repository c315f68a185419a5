"""``TaskQueue``: enqueue calls, look at tasks, wait for results, on an event loop."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, Self, Unpack, overload

from .backends.base import BaseBackend
from .calls import CHUNK, CallPreparer, CallRow, saying_what_stands
from .claims import CancelResult, RetryResult, TaskRow
from .endings import EndingsWatch, check_task_id, check_task_ids, check_wait, settle, unwrap
from .exceptions import TaskNotFoundError
from .models import Result, Task, TaskSelect
from .one_commit import AsyncJoiningEnqueuer
from .options import Seconds, check_name
from .queue_arguments import (
    EndedStatus,
    answer_for,
    check_filters,
    check_ids,
    check_reason,
    choose_backend,
    choose_serializer,
    is_statement,
    require_purge,
    still_running,
)
from .serialization import Serializer
from .task_options import CallOptions

P = ParamSpec("P")

BREATH = 500  # rows prepared between two chances for the event loop to do something else


class Enqueuer(AsyncJoiningEnqueuer):
    """Enqueues calls with certain options; ``queue.options(...)`` gives one, and a ``TaskQueue`` is one."""

    async def enqueue(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Have a worker call ``function(*args, **kwargs)``; return the id of the task.

        On return the task is committed. Functions of all kinds will do, async ones too; so will methods,
        partials and other callables, as long as the serializer can store them.

        Raises:
            InvalidArgumentError: ``function`` cannot be called, or not with these arguments.
            SerializationError: the function or an argument cannot be stored; the message names it.
            DuplicateTaskError: another unfinished task bears the ``unique_key``, and ``on_conflict="raise"``.
            BackendError: the backend refused; nothing was enqueued.
        """
        row = self._calls.row(function, args, kwargs)
        return (await self._backend.aenqueue((row,)))[0]

    async def enqueue_many(self, function: Callable[..., Any], rows: Iterable[CallRow]) -> list[str]:
        """Enqueue one call of ``function`` for each row; return the ids in the order of the rows.

        Up to 10,000 rows are committed at once, all or none. More are committed 10,000 at a time, so that
        any number of rows can come from a generator in bounded memory. If one is refused then, the commits
        before it stand, and a note on the error says how many rows they hold.

        Args:
            function: what to call.
            rows: for each call, a tuple of positional arguments or a dict of keywords.

        Raises:
            InvalidArgumentError: ``function`` cannot be called, or a row does not fit it.
            SerializationError: the function or an argument cannot be stored.
            BackendError: the backend refused.
        """
        prepared = self._calls.rows(function, rows)
        ids: list[str] = []
        with saying_what_stands(ids):
            while chunk := await _next_chunk(prepared):
                ids += await self._backend.aenqueue(chunk)
        return ids

    def options(self, **options: Unpack[CallOptions]) -> Enqueuer:
        """Return what enqueues with these options; they go before those of ``@sitq.task``.

        Args:
            **options: ``priority`` (higher runs first, default 0), ``eta`` (an aware datetime) or ``delay``
                (seconds or a ``timedelta``), ``queue`` (default ``"default"``), ``timeout`` (of one attempt;
                default without limit), ``expires_in`` (no attempt begins later than so long after it is due),
                ``max_retries`` (default 0), ``retry_delay``, ``retry_backoff``, ``retry_max_delay``,
                ``retry_jitter``, ``retry_on`` and ``give_up_on`` (exception classes), ``unique_key`` and
                ``on_conflict`` (``"skip"``, ``"replace"`` or ``"raise"``).

        Raises:
            ConfigurationError: an option is unknown or its value is not allowed.
        """
        return Enqueuer(self._backend, self._calls.with_options(options))


class TaskQueue(Enqueuer):
    """Enqueues calls, looks at tasks and waits for results.

    It may be used on any event loop, and shares its backend with any number of queues and workers.

    Args:
        backend: where the tasks are kept; by default a SQLite file ``sitq.db`` in the working folder.
        serializer: makes the bytes that are stored; workers need the same. By default a
            ``CloudpickleSerializer``.

    Raises:
        ConfigurationError: an argument is not what it has to be.
    """

    def __init__(self, backend: BaseBackend | None = None, *, serializer: Serializer | None = None) -> None:
        chosen = choose_backend(backend)
        calls = CallPreparer(choose_serializer(serializer), chosen.now)
        super().__init__(chosen, replace(calls, require_transactions=chosen.require_transactions))
        self._owns_backend = backend is None
        self._watch = EndingsWatch(chosen)

    @property
    def backend(self) -> BaseBackend:
        """Where the tasks are kept."""
        return self._backend

    @property
    def serializer(self) -> Serializer:
        """What makes the bytes that are stored."""
        return self._calls.serializer

    async def get_task(self, task_id: str) -> Task:
        """Return the task as it is now; raise ``TaskNotFoundError`` for an unknown id."""
        task = await self._backend.aget_task(check_task_id(task_id))
        if task is None:
            raise TaskNotFoundError(task_id)
        return task

    async def list(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[Task]:
        """Return the tasks that match all that is given, the newest first.

        Args:
            status: a ``TaskStatus`` or its text, such as ``"queued"``.
            queue: the name of a queue.
            name: the dotted name of a function, such as ``"shop.mail.send"``.
            limit: at most this many tasks.
        """
        return await self._backend.alist_tasks(**check_filters(status, queue, name, limit))

    async def get_result(self, task_id: str, timeout: Seconds | None = None) -> Result | None:
        """Wait until the task has ended, and return how; ``None`` if it had not when the time was up.

        Args:
            task_id: what ``enqueue`` returned.
            timeout: seconds or a ``timedelta``; 0 looks once, ``None`` waits without limit.

        Raises:
            TaskNotFoundError: there is no such task.
        """
        pending = {check_task_id(task_id): None}
        found = [ending async for ending in self._watch.endings(pending, check_wait(timeout))]
        return settle(found[0], await self._backend.aget_result(task_id)) if found else None

    async def result(self, task_id: str, timeout: Seconds | None = None) -> Any:
        """Wait until the task has ended, and return what its function returned. See ``get_result``.

        Raises:
            TaskFailedError: the function raised; the error carries its message and the worker's traceback.
            TaskCancelledError: the task was cancelled.
            ResultTimeoutError: the task had not ended when the time was up.
            TaskNotFoundError: there is no such task.
            DeserializationError: the stored value cannot be loaded here.
        """
        result = await self.get_result(task_id, timeout)
        if result is None:
            raise still_running([task_id], timeout)
        return self.unwrap(result)

    def unwrap(self, result: Result) -> Any:
        """Return what the function returned, out of a ``Result``; raise what ``result`` raises otherwise."""
        return unwrap(result, self.serializer)

    def as_completed(self, task_ids: Iterable[str], timeout: Seconds | None = None) -> AsyncIterator[Result]:
        """Give the results of these tasks as they end, each once; use it in ``async for``.

        Args:
            task_ids: what ``enqueue`` or ``enqueue_many`` returned.
            timeout: for all of them together, from the first step on; seconds, a ``timedelta``, or ``None``.

        Raises:
            ResultTimeoutError: not all had ended when the time was up.
            TaskNotFoundError: one of the ids is unknown.
        """
        return self._as_completed(check_task_ids(task_ids), check_wait(timeout))

    async def _as_completed(self, pending: dict[str, None], timeout: float | None) -> AsyncIterator[Result]:
        async for ending in self._watch.endings(pending, timeout):
            yield settle(ending, await self._backend.aget_result(ending.task_id))
        if pending:
            raise still_running(builtins.list(pending), timeout)

    @overload
    async def cancel(self, task_ids: str, reason: str | None = None) -> CancelResult: ...  # type: ignore[overload-overlap]  # a text is one id

    @overload
    async def cancel(
        self, task_ids: Iterable[str] | TaskSelect, reason: str | None = None
    ) -> dict[str, CancelResult]: ...

    async def cancel(self, task_ids: Any, reason: str | None = None) -> Any:
        """Cancel a task, or several, and return what became of each.

        A queued task ends at once, and who waits for its result gets ``TaskCancelledError``. A running one is
        told: an async function is cancelled, and one in a thread sees ``sitq.current_task().cancelled``; if it
        goes on to its end, its task completes. One that ends in another way is not retried.

        Args:
            task_ids: one id, for one ``CancelResult``; or several, or a statement such as
                ``select(Task).where(Task.queue == "mail")``, for a dict with one for each.
            reason: what ``TaskCancelledError`` will say.

        Raises:
            TaskNotFoundError: one id was given, and there is no such task. Of several, it is ``"unknown"``.
        """
        reason = check_reason(reason)
        if is_statement(task_ids):
            return await self._backend.acancel_selected(task_ids, reason)
        results = await self._backend.acancel(check_ids(task_ids), reason)
        return answer_for(task_ids, results)

    @overload
    async def retry(self, task_ids: str) -> RetryResult: ...  # type: ignore[overload-overlap]  # a text is one id

    @overload
    async def retry(self, task_ids: Iterable[str] | TaskSelect) -> dict[str, RetryResult]: ...

    async def retry(self, task_ids: Any) -> Any:
        """Put a task back that has ended, or several, and return what became of each.

        They are due at once, with all their retries; their results are gone, and ``errors`` keeps what went
        wrong before. A task with a unique key holds it again; if another bears it by now, it is ``"duplicate"``.

        Args:
            task_ids: one id, for one ``RetryResult``; or several, or a statement such as
                ``select(Task).where(Task.status == "failed")``, for a dict with one for each.

        Raises:
            TaskNotFoundError: one id was given, and there is no such task. Of several, it is ``"unknown"``.
        """
        if is_statement(task_ids):
            return await self._backend.aretry_selected(task_ids)
        return answer_for(task_ids, await self._backend.aretry(check_ids(task_ids)))

    async def purge(
        self,
        *,
        older_than: Seconds | datetime,
        status: EndedStatus | Iterable[EndedStatus] | None = None,
    ) -> int:
        """Delete tasks that ended long ago, with their results, a few at a time; return how many.

        Args:
            older_than: how long ago they must have ended, or the moment before which.
            status: ``"completed"``, ``"failed"`` or ``"cancelled"``, or several; all of them unless given.

        Raises:
            NotAvailableError: the backend cannot delete tasks.
        """
        purged: int = await require_purge(self._backend, "apurge")(older_than=older_than, status=status)
        return purged

    async def pause(self, queue: str) -> None:
        """Let no worker claim from this queue until ``resume``, in any process. Running tasks go on."""
        await self._backend.apause_queue(check_name("queue", queue))

    async def resume(self, queue: str) -> None:
        """Let workers claim from this queue again."""
        await self._backend.aresume_queue(check_name("queue", queue))

    async def paused(self) -> builtins.list[str]:
        """Return the names of the paused queues, sorted."""
        return await self._backend.apaused_queues()

    async def aclose(self) -> None:
        """Close the backend if the queue made it; a backend that was given belongs to whoever gave it."""
        if self._owns_backend:
            await self._backend.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


async def _next_chunk(prepared: Iterator[TaskRow]) -> list[TaskRow]:
    chunk: list[TaskRow] = []
    while len(chunk) < CHUNK and (some := list(islice(prepared, BREATH))):
        chunk += some
        await asyncio.sleep(0)
    return chunk
