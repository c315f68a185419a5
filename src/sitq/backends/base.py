"""The contract that every backend keeps.

Six verbs are enough for a backend of your own: ``initialize``, ``store_task``, ``get_task``,
``update_task_status``, ``store_result`` and ``get_result``. With them a queue and a worker work in one
process: what more they need is done on top of those verbs, in this process's memory
(``sitq.backends.inprocess``). For several processes, override the verbs under "What a worker needs" as
well, each as one atomic step of your storage.

Every verb has an async twin with the prefix ``a``; unless overridden, it runs the verb in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from ..claims import Claim, ClaimRequest, Outcome, TaskRow, Token
from ..models import Result, Task, TaskStatus
from ..presence import Presence
from ..stats import Stats, group_of, stats_of
from ..wakeups import Wakeups
from .inprocess_interventions import InProcessTasks
from .interventions import Interventions
from .joining import Joining
from .transactions import Transactions


class BaseBackend(Interventions, Joining, Transactions):
    """Where tasks and results are kept. Subclass it for a storage of your own.

    Verbs may be called from any thread. They raise ``BackendError`` or one of its kinds when the storage
    refuses, and never leave half a change behind.
    """

    rounds_overlap: bool = False
    """Whether a worker starts what it has claimed only when its next round is under way.

    That pays where the database works on a processor of its own, and little of the way to it is Python's.
    """

    # The documented verbs: what a backend of your own implements.

    def initialize(self) -> None:
        """Prepare the storage. Calling it again changes nothing."""

    def store_task(self, task: Task) -> None:
        """Keep a task. A task with the same id is replaced, every column of it."""
        raise NotImplementedError(f"{type(self).__name__} has no store_task")

    def get_task(self, task_id: str) -> Task | None:
        """Return the task with this id, or ``None``."""
        raise NotImplementedError(f"{type(self).__name__} has no get_task")

    def update_task_status(self, task_id: str, status: str) -> None:
        """Put a task into another status, whoever holds it. Workers use ``finish``.

        Raises ``TaskNotFoundError`` for an unknown id, ``InvalidArgumentError`` for an unknown status.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update_task_status")

    def store_result(self, task_id: str, result: Result) -> None:
        """Keep how a task ended. A result of the same task is replaced.

        Raises ``TaskNotFoundError`` where the storage knows that no such task exists.
        """
        raise NotImplementedError(f"{type(self).__name__} has no store_result")

    def get_result(self, task_id: str) -> Result | None:
        """Return how a task ended, or ``None`` as long as nothing is stored."""
        raise NotImplementedError(f"{type(self).__name__} has no get_result")

    def has_result(self, task_id: str) -> bool:
        """Say whether ``get_result`` would return one."""
        return self.get_result(task_id) is not None

    def list_all_tasks(self) -> list[str]:
        """Return the id of every task, the oldest first. The default knows those enqueued through this object."""
        return self._in_process.task_ids()

    def get_stats(self) -> Stats:
        """Count the tasks by queue and status. The default reads every task that ``list_tasks`` gives."""
        return stats_of(group_of(task, self.now()) for task in self.list_tasks())

    # What a queue needs: defaults on top of the documented verbs.

    def enqueue(self, rows: Sequence[TaskRow]) -> list[str]:
        """Keep new tasks, all or none, and wake who waits for them. Return their ids in the same order.

        A row holds at least ``id``, ``function`` and ``created_at``; what it leaves out keeps its default. Where
        another unfinished task bears a row's ``unique_key``, the row's ``on_conflict`` says what happens: that
        task stands (``"skip"``, or none given), becomes what the row says if it only waits, keeping its id
        (``"replace"``), or ``DuplicateTaskError`` is raised (``"raise"``). The id returned is of the task that stands.
        """
        return self._in_process.enqueue(rows)

    def get_statuses(self, task_ids: Sequence[str]) -> Mapping[str, TaskStatus]:
        """Return the status of each of these tasks; unknown ids are left out."""
        tasks = (self.get_task(task_id) for task_id in task_ids)
        return {task.id: TaskStatus.read(task.status) for task in tasks if task is not None}

    def list_tasks(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """Return the tasks that match all that is given, the newest first, at most ``limit`` of them."""
        return self._in_process.list_tasks(status=status, queue=queue, name=name, limit=limit)

    def pause_queue(self, queue: str) -> None:
        """Let no worker claim from this queue until ``resume_queue``. Running tasks go on."""
        self._in_process.pause_queue(queue)

    def resume_queue(self, queue: str) -> None:
        """Let workers claim from this queue again, and wake them."""
        self._in_process.resume_queue(queue)

    def paused_queues(self) -> list[str]:
        """Return the names of the paused queues, sorted."""
        return self._in_process.paused_queues()

    # What a worker needs: override each as one atomic step to serve several processes.

    def claim(self, request: ClaimRequest) -> list[Claim]:
        """Make due tasks the worker's: the highest priority first, equal ones in the order of their ids.

        Tasks of an earlier queue in the request come before those of a later one; a paused queue gives
        none. The claim is durable on return, and no other worker gets the same task unless the lease lapses.
        """
        return self._in_process.claim(request)

    def finish(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Write how claims ended, and say of each whether the claim still held.

        Where it did not (lapsed and claimed again, cancelled), nothing of that outcome is written. Writing
        the same outcome twice is the same as once.
        """
        return self._in_process.finish(outcomes)

    def finish_and_claim(
        self, outcomes: Sequence[Outcome], request: ClaimRequest | None
    ) -> tuple[list[bool], list[Claim]]:
        """``finish``, then ``claim`` if there is a request: a worker's round, in one step where possible."""
        held = self.finish(outcomes) if outcomes else []
        return held, self.claim(request) if request else []

    def extend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        """Let leases end ``lease`` seconds from now, and say of each whether the claim still held."""
        return self._in_process.extend(tokens, lease)

    def reap(self) -> list[str]:
        """Put tasks whose lease has lapsed back to ``queued``, or let them fail. Return their ids.

        ``sitq.crashes.after_crash`` says which, and what is kept of the crash. A task that runs again is
        ``isolated``: a claim gives it as its request's ``isolated`` says, and never beside another task.
        """
        return self._in_process.reap()

    def reap_workers(self, worker_ids: Sequence[str]) -> list[str]:
        """Do as ``reap`` does with tasks of workers that are known to have died, whatever their leases say.

        One call may leave some for the next. The last call returns an empty list.
        """
        return self._in_process.reap_workers(worker_ids)

    def isolated_waiting(self, queues: Sequence[str]) -> bool:
        """Say whether a task of these queues waits that must run alone, so that busy workers make room for it."""
        return self._in_process.isolated_waiting(queues)

    def presence(self, worker_id: str) -> Presence:
        """Return what lets other workers notice at once if this one dies. The default leaves it to the leases."""
        return Presence(worker_id)

    def next_due_at(self, queues: Sequence[str]) -> datetime | None:
        """Return when the next task that waits for its time becomes due, or ``None``.

        A backend may look at more queues than these, so the time may be early; it is never late.
        """
        return self._in_process.next_due_at(queues)

    # Time, news, opening and closing.

    def now(self) -> datetime:
        """Return the time by the clock that leases follow, aware and in UTC."""
        return datetime.now(UTC) if self._other_clock is None else self._other_clock()

    def use_clock(self, clock: Callable[[], datetime] | None) -> None:
        """Let ``now`` give what ``clock`` gives, in this process, until ``None`` is given.

        It is for tests that move the time: due times, leases, expiry and history follow ``now``, and a worker
        looks at it whenever it asks for tasks. ``sitq.testing.MovableClock`` is such a clock.
        """
        self._other_clock = clock

    _other_clock: Callable[[], datetime] | None = None

    @property
    def wakeups(self) -> Wakeups:
        """What wakes workers and waiters in this process."""
        return self._in_process.wakeups

    def close(self) -> None:
        """Give back what the backend holds open. It opens again when it is used again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def _in_process(self) -> InProcessTasks:
        # Not made in __init__: the documented subclass does not call it.
        memory: InProcessTasks = self.__dict__.get("_sitq_in_process") or self.__dict__.setdefault(
            "_sitq_in_process",
            InProcessTasks(self, lists=type(self).list_all_tasks is not BaseBackend.list_all_tasks),
        )
        return memory

    # The async twins.

    async def ainitialize(self) -> None:
        """``initialize`` without blocking the event loop; so for every twin below."""
        await asyncio.to_thread(self.initialize)

    async def astore_task(self, task: Task) -> None:
        """See ``store_task``."""
        await asyncio.to_thread(self.store_task, task)

    async def aget_task(self, task_id: str) -> Task | None:
        """See ``get_task``."""
        return await asyncio.to_thread(self.get_task, task_id)

    async def aupdate_task_status(self, task_id: str, status: str) -> None:
        """See ``update_task_status``."""
        await asyncio.to_thread(self.update_task_status, task_id, status)

    async def astore_result(self, task_id: str, result: Result) -> None:
        """See ``store_result``."""
        await asyncio.to_thread(self.store_result, task_id, result)

    async def aget_result(self, task_id: str) -> Result | None:
        """See ``get_result``."""
        return await asyncio.to_thread(self.get_result, task_id)

    async def ahas_result(self, task_id: str) -> bool:
        """See ``has_result``."""
        return await asyncio.to_thread(self.has_result, task_id)

    async def alist_all_tasks(self) -> list[str]:
        """See ``list_all_tasks``."""
        return await asyncio.to_thread(self.list_all_tasks)

    async def aget_stats(self) -> Stats:
        """See ``get_stats``."""
        return await asyncio.to_thread(self.get_stats)

    async def aenqueue(self, rows: Sequence[TaskRow]) -> list[str]:
        """See ``enqueue``."""
        return await asyncio.to_thread(self.enqueue, rows)

    async def aget_statuses(self, task_ids: Sequence[str]) -> Mapping[str, TaskStatus]:
        """See ``get_statuses``."""
        return await asyncio.to_thread(self.get_statuses, task_ids)

    async def alist_tasks(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """See ``list_tasks``."""
        return await asyncio.to_thread(self.list_tasks, status=status, queue=queue, name=name, limit=limit)

    async def apause_queue(self, queue: str) -> None:
        """See ``pause_queue``."""
        await asyncio.to_thread(self.pause_queue, queue)

    async def aresume_queue(self, queue: str) -> None:
        """See ``resume_queue``."""
        await asyncio.to_thread(self.resume_queue, queue)

    async def apaused_queues(self) -> list[str]:
        """See ``paused_queues``."""
        return await asyncio.to_thread(self.paused_queues)

    async def aclaim(self, request: ClaimRequest) -> list[Claim]:
        """See ``claim``."""
        return await asyncio.to_thread(self.claim, request)

    async def afinish(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """See ``finish``."""
        return await asyncio.to_thread(self.finish, outcomes)

    async def afinish_and_claim(
        self, outcomes: Sequence[Outcome], request: ClaimRequest | None
    ) -> tuple[list[bool], list[Claim]]:
        """See ``finish_and_claim``."""
        return await asyncio.to_thread(self.finish_and_claim, outcomes, request)

    async def aextend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        """See ``extend``."""
        return await asyncio.to_thread(self.extend, tokens, lease)

    async def areap(self) -> list[str]:
        """See ``reap``."""
        return await asyncio.to_thread(self.reap)

    async def areap_workers(self, worker_ids: Sequence[str]) -> list[str]:
        """See ``reap_workers``."""
        return await asyncio.to_thread(self.reap_workers, worker_ids)

    async def aisolated_waiting(self, queues: Sequence[str]) -> bool:
        """See ``isolated_waiting``."""
        return await asyncio.to_thread(self.isolated_waiting, queues)

    async def anext_due_at(self, queues: Sequence[str]) -> datetime | None:
        """See ``next_due_at``."""
        return await asyncio.to_thread(self.next_due_at, queues)

    async def aclose(self) -> None:
        """See ``close``."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


Backend = BaseBackend
"""The name that some documents use for ``BaseBackend``."""
