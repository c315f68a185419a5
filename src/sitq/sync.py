"""``SyncTaskQueue``: the verbs of ``TaskQueue`` without ``await``, for any thread."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, Self, Unpack, overload

from .backends.base import BaseBackend
from .calls import CHUNK, CallPreparer, CallRow, saying_what_stands
from .claims import CancelResult, RetryResult
from .endings import check_task_id, check_task_ids, check_wait, endings, settle, unwrap
from .exceptions import TaskNotFoundError
from .models import Result, Task, TaskSelect
from .one_commit import JoiningEnqueuer
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


class SyncEnqueuer(JoiningEnqueuer):
    """Enqueues calls with certain options; ``queue.options(...)`` gives one, and a ``SyncTaskQueue`` is one."""

    def enqueue(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Have a worker call ``function(*args, **kwargs)``; return the id. See ``TaskQueue.enqueue``."""
        return self._backend.enqueue((self._calls.row(function, args, kwargs),))[0]

    def enqueue_many(self, function: Callable[..., Any], rows: Iterable[CallRow]) -> list[str]:
        """Enqueue one call for each row of arguments; return the ids. See ``TaskQueue.enqueue_many``."""
        prepared = self._calls.rows(function, rows)
        ids: list[str] = []
        with saying_what_stands(ids):
            while chunk := list(islice(prepared, CHUNK)):
                ids += self._backend.enqueue(chunk)
        return ids

    def options(self, **options: Unpack[CallOptions]) -> SyncEnqueuer:
        """Return what enqueues with these options. See ``TaskQueue.options``."""
        return SyncEnqueuer(self._backend, self._calls.with_options(options))


class SyncTaskQueue(SyncEnqueuer):
    """Enqueues calls, looks at tasks and waits for results; each verb blocks until it is done.

    It may be used in any thread, and shared between threads. In a running event loop it works as well, and
    blocks that loop: it has none of its own. The arguments are those of ``TaskQueue``.
    """

    def __init__(self, backend: BaseBackend | None = None, *, serializer: Serializer | None = None) -> None:
        chosen = choose_backend(backend)
        calls = CallPreparer(choose_serializer(serializer), chosen.now)
        super().__init__(chosen, replace(calls, require_transactions=chosen.require_transactions))
        self._owns_backend = backend is None

    @property
    def backend(self) -> BaseBackend:
        """Where the tasks are kept."""
        return self._backend

    @property
    def serializer(self) -> Serializer:
        """What makes the bytes that are stored."""
        return self._calls.serializer

    def get_task(self, task_id: str) -> Task:
        """Return the task as it is now; raise ``TaskNotFoundError`` for an unknown id."""
        task = self._backend.get_task(check_task_id(task_id))
        if task is None:
            raise TaskNotFoundError(task_id)
        return task

    def list(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[Task]:
        """Return the tasks that match all that is given, the newest first. See ``TaskQueue.list``."""
        return self._backend.list_tasks(**check_filters(status, queue, name, limit))

    def get_result(self, task_id: str, timeout: Seconds | None = None) -> Result | None:
        """Wait until the task has ended, and return how; ``None`` if it had not when the time was up.

        See ``TaskQueue.get_result``.
        """
        pending = {check_task_id(task_id): None}
        for ending in endings(self._backend, pending, check_wait(timeout)):
            return settle(ending, self._backend.get_result(task_id))
        return None

    def result(self, task_id: str, timeout: Seconds | None = None) -> Any:
        """Wait until the task has ended, and return what its function returned. See ``TaskQueue.result``."""
        result = self.get_result(task_id, timeout)
        if result is None:
            raise still_running([task_id], timeout)
        return self.unwrap(result)

    def unwrap(self, result: Result) -> Any:
        """Return what the function returned, out of a ``Result``; raise what ``result`` raises otherwise."""
        return unwrap(result, self.serializer)

    def as_completed(self, task_ids: Iterable[str], timeout: Seconds | None = None) -> Iterator[Result]:
        """Give the results of these tasks as they end, each once. See ``TaskQueue.as_completed``."""
        return self._as_completed(check_task_ids(task_ids), check_wait(timeout))

    def _as_completed(self, pending: dict[str, None], timeout: float | None) -> Iterator[Result]:
        for ending in endings(self._backend, pending, timeout):
            yield settle(ending, self._backend.get_result(ending.task_id))
        if pending:
            raise still_running(builtins.list(pending), timeout)

    @overload
    def cancel(self, task_ids: str, reason: str | None = None) -> CancelResult: ...  # type: ignore[overload-overlap]  # a text is one id

    @overload
    def cancel(self, task_ids: Iterable[str] | TaskSelect, reason: str | None = None) -> dict[str, CancelResult]: ...

    def cancel(self, task_ids: Any, reason: str | None = None) -> Any:
        """Cancel a task, or several, and return what became of each. See ``TaskQueue.cancel``."""
        reason = check_reason(reason)
        if is_statement(task_ids):
            return self._backend.cancel_selected(task_ids, reason)
        return answer_for(task_ids, self._backend.cancel(check_ids(task_ids), reason))

    @overload
    def retry(self, task_ids: str) -> RetryResult: ...  # type: ignore[overload-overlap]  # a text is one id

    @overload
    def retry(self, task_ids: Iterable[str] | TaskSelect) -> dict[str, RetryResult]: ...

    def retry(self, task_ids: Any) -> Any:
        """Put a task back that has ended, or several, and return what became of each. See ``TaskQueue.retry``."""
        if is_statement(task_ids):
            return self._backend.retry_selected(task_ids)
        return answer_for(task_ids, self._backend.retry(check_ids(task_ids)))

    def purge(
        self, *, older_than: Seconds | datetime, status: EndedStatus | Iterable[EndedStatus] | None = None
    ) -> int:
        """Delete tasks that ended long ago, with their results; return how many. See ``TaskQueue.purge``."""
        purged: int = require_purge(self._backend, "purge")(older_than=older_than, status=status)
        return purged

    def pause(self, queue: str) -> None:
        """Let no worker claim from this queue until ``resume``, in any process. Running tasks go on."""
        self._backend.pause_queue(check_name("queue", queue))

    def resume(self, queue: str) -> None:
        """Let workers claim from this queue again."""
        self._backend.resume_queue(check_name("queue", queue))

    def paused(self) -> builtins.list[str]:
        """Return the names of the paused queues, sorted."""
        return self._backend.paused_queues()

    def close(self) -> None:
        """Close the backend if the queue made it; a backend that was given belongs to whoever gave it."""
        if self._owns_backend:
            self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
