"""What a test asks about an app's tasks, and how it lets them run."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from ..backends.base import BaseBackend
from ..calls import read_callee, readable_name
from ..claims import Claim, ClaimRequest
from ..exceptions import InvalidArgumentError, SitqError
from ..ids import new_id
from ..joining import kind_of
from ..models import Task, TaskStatus
from ..queue import TaskQueue
from ..serialization import CloudpickleSerializer, Payload, Serializer
from ..sync import SyncTaskQueue
from .binding import AppTransaction, BoundDatabase, bound, flush, is_usable_here, on_this_loop, wait_here
from .clock import MovableClock
from .running import Runner, Wait, wait_on_a_loop

WORKER_ID = "sitq-testing"
LEASE = 3600.0
MOST_TASKS = 1_000
"""After so many tasks ``drain`` takes it that they enqueue each other for ever."""


class Call(NamedTuple):
    """A task, and the call that it is to make."""

    task: Task
    arguments: dict[str, Any] | None


class AppTasks:
    """The tasks of one test. The fixture ``sitq_testing`` gives one; everything is undone when the test ends.

    Each verb has an async twin with the prefix ``a``, which is to be used where the test's session is async.

    Args:
        queue: the app's queue, or its backend.
        transaction: the test's rolled-back transaction; with ``None`` the backend is used as it is.
    """

    def __init__(
        self, queue: TaskQueue | SyncTaskQueue | BaseBackend, transaction: AppTransaction | None = None
    ) -> None:
        if not isinstance(queue, TaskQueue | SyncTaskQueue | BaseBackend):
            raise InvalidArgumentError(
                f"tests are of a TaskQueue, a SyncTaskQueue or a backend, not of {kind_of(queue)}: "
                "see the fixture sitq_queue"
            )
        self.backend: BaseBackend = queue if isinstance(queue, BaseBackend) else queue.backend
        self._serializer: Serializer = CloudpickleSerializer() if isinstance(queue, BaseBackend) else queue.serializer
        self._transaction = transaction
        self._since = new_id()
        self._stack = ExitStack()
        self._bound: BoundDatabase | None = None
        self._clock: MovableClock | None = None
        self._draining = 0

    def __enter__(self) -> AppTasks:
        if self._transaction is not None:
            self._bound = self._stack.enter_context(bound(self.backend, self._transaction))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def clock(self) -> MovableClock:
        """The backend's clock, which stands still from the first time that it is asked for until the test moves it."""
        if self._clock is None:
            self._clock = MovableClock(self.backend.now())
            self.backend.use_clock(self._clock)
            self._stack.callback(self.backend.use_clock, None)
        return self._clock

    # What was enqueued.

    def enqueued(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *args: Any,
        matching: Callable[..., bool] | None = None,
        **kwargs: Any,
    ) -> list[Task]:
        """Return the tasks that were enqueued in this test, the oldest first, whether or not they have run.

        Args:
            function: only calls of this one.
            *args: only calls with these arguments, and ``kwargs``; any call if there are none. It does not matter
                which of them were given by name. ``unittest.mock.ANY`` stands for any value.
            matching: only calls for whose arguments this returns ``True``.
            **kwargs: see ``args``.
        """
        calls = self._calls(function)
        if function is not None and (args or kwargs):
            wanted = arguments_of(function, args, kwargs)
            calls = [call for call in calls if wanted == call.arguments]
        if matching is not None:
            calls = [call for call in calls if matching(**(call.arguments or {}))]
        return [call.task for call in calls]

    def assert_enqueued(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        matching: Callable[..., bool] | None = None,
        **kwargs: Any,
    ) -> Task:
        """Fail unless such a call was enqueued in this test; return its task, or the latest. See ``enqueued``."""
        found = self.enqueued(function, *args, matching=matching, **kwargs)
        if not found:
            raise AssertionError(f"{readable_name(function)} was not enqueued so; {self._told()}")
        return found[-1]

    def refute_enqueued(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        matching: Callable[..., bool] | None = None,
        **kwargs: Any,
    ) -> None:
        """Fail if such a call was enqueued in this test. See ``enqueued``."""
        if self.enqueued(function, *args, matching=matching, **kwargs):
            raise AssertionError(f"{readable_name(function)} was enqueued so; {self._told()}")

    def _calls(self, function: Callable[..., Any] | None) -> list[Call]:
        name = None if function is None else read_callee(function).name
        tasks = self.backend.list_tasks(name=name)
        return [Call(task, self._arguments(task)) for task in reversed(tasks) if task.id >= self._since]

    def _arguments(self, task: Task) -> dict[str, Any] | None:
        try:
            call = self._serializer.load_call(Payload(task.function, task.args, task.kwargs), task_id=task.id)
            return arguments_of(call.function, call.args, call.kwargs)
        except SitqError:
            return None

    def _told(self) -> str:
        calls = self._calls(None)
        if not calls:
            return "nothing was enqueued in this test"
        lines = [f"  {call.task.name}({shown(call.arguments)}), {call.task.status}" for call in calls]
        return "\n".join(["in this test were enqueued:", *lines])

    # Letting them run.

    def drain(self, session: AppTransaction | None = None, *, raise_errors: bool = True) -> list[Task]:
        """Run all tasks that are due, in their order, and those that they enqueue; return them as they are then.

        They run one after the other, here: sync functions in this thread, async ones on an event loop that is made
        for each. Retries run too, once they are due. The test's session is flushed before, and what it has loaded
        is loaded anew after it, unless it is async.

        Args:
            session: the transaction to run in, instead of the one that the fixture ``sitq_session`` gave.
            raise_errors: raise what a function raised, after its outcome has been written.
        """
        return self._drain(session, raise_errors, wait_on_a_loop)

    def _drain(self, session: AppTransaction | None, raise_errors: bool, wait: Wait) -> list[Task]:
        self._draining += 1
        try:
            if session is None:
                return self._run_all(raise_errors, wait)
            with bound(self.backend, session) as inside:
                outside, self._bound = self._bound, inside
                try:
                    return self._run_all(raise_errors, wait)
                finally:
                    self._bound = outside
        finally:
            self._draining -= 1

    def _run_all(self, raise_errors: bool, wait: Wait) -> list[Task]:
        ran: list[str] = []
        runner = Runner(self.backend, self._serializer)
        try:
            while (claim := self._claim_next()) is not None:
                if len(ran) == MOST_TASKS:
                    raise AssertionError(f"more than {MOST_TASKS} tasks ran: do they enqueue each other for ever?")
                ran.append(claim.id)
                error = runner.run(claim, wait)
                if error is not None and raise_errors:
                    raise error
        finally:
            if self._bound is not None:
                self._bound.forget_loaded()
        return [task for task in map(self.backend.get_task, dict.fromkeys(ran)) if task is not None]

    def _claim_next(self) -> Claim | None:
        now, paused = self.backend.now(), set(self.backend.paused_queues())
        waiting = [
            task
            for task in self.backend.list_tasks(status=TaskStatus.QUEUED)
            if task.queue not in paused and (task.due_at is None or task.due_at <= now)
        ]
        for task in sorted(waiting, key=lambda task: (-(task.priority or 0), task.id)):
            claims = self.backend.claim(ClaimRequest(WORKER_ID, [task.queue], 1, LEASE))
            if claims:
                return claims[0]
        return None

    @contextmanager
    def inline(self) -> Iterator[None]:
        """Run every task as it is enqueued, as long as the block lasts; what a function raises, ``enqueue`` raises.

        Tasks whose time is to come wait for ``drain``. With ``enqueue_in`` the session is flushed at once. An async
        one cannot be without ``await``, so the task waits for the next verb that is awaited, or for ``adrain``.
        """
        verbs = {name: getattr(self.backend, name) for name in ("enqueue", "aenqueue", "enqueue_in", "aenqueue_in")}

        def enqueue(*args: Any) -> list[str]:
            ids: list[str] = verbs["enqueue"](*args)
            self.drain()
            return ids

        def enqueue_in(transaction: AppTransaction, rows: Any) -> list[str]:
            ids: list[str] = verbs["enqueue_in"](transaction, rows)
            # What a running task enqueues in its transaction waits for its commit; that drain comes to it.
            if not self._draining and is_usable_here(transaction):
                flush(transaction)
                self.drain(None if self._bound is not None else transaction)
            return ids

        async def aenqueue(*args: Any) -> list[str]:
            ids: list[str] = await verbs["aenqueue"](*args)
            await self.adrain()
            return ids

        async def aenqueue_in(transaction: AppTransaction, rows: Any) -> list[str]:
            ids: list[str] = await verbs["aenqueue_in"](transaction, rows)
            if not self._draining:
                await on_this_loop(flush, transaction)
                await self.adrain(None if self._bound is not None else transaction)
            return ids

        changed = {"enqueue": enqueue, "aenqueue": aenqueue, "enqueue_in": enqueue_in, "aenqueue_in": aenqueue_in}
        before = {name: vars(self.backend)[name] for name in changed if name in vars(self.backend)}
        vars(self.backend).update(changed)
        try:
            yield
        finally:
            for name in changed:
                del vars(self.backend)[name]
            vars(self.backend).update(before)

    # The async twins.

    async def aenqueued(self, function: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> list[Task]:
        """See ``enqueued``."""
        return await on_this_loop(self.enqueued, function, *args, **kwargs)

    async def aassert_enqueued(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task:
        """See ``assert_enqueued``."""
        return await on_this_loop(self.assert_enqueued, function, *args, **kwargs)

    async def arefute_enqueued(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """See ``refute_enqueued``."""
        await on_this_loop(self.refute_enqueued, function, *args, **kwargs)

    async def adrain(self, session: AppTransaction | None = None, *, raise_errors: bool = True) -> list[Task]:
        """See ``drain``; async functions run on the event loop of the test."""
        return await on_this_loop(self._drain, session, raise_errors, wait_here)


def arguments_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names, however they were given, with the defaults of those left out."""
    callee = read_callee(function)
    if callee.signature is None:
        return {"args": args, **kwargs}
    try:
        given = callee.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidArgumentError(f"the arguments do not fit {callee.name}: {error}") from None
    given.apply_defaults()
    named = dict(given.arguments)
    for parameter in callee.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name)
    return named


def shown(arguments: dict[str, Any] | None) -> str:
    """A call's arguments in a test's own message."""
    return "?" if arguments is None else ", ".join(f"{name}={reprlib.repr(value)}" for name, value in arguments.items())
