"""What tests need to run single claims: functions to run, and an Execution without a backend."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from sitq.claims import Claim, Outcome
from sitq.execution import Execution
from sitq.models import TaskStatus
from sitq.serialization import CloudpickleSerializer

LONG = 30.0  # seconds; nothing waits for so long unless it is broken
SERIALIZER = CloudpickleSerializer()

colour = contextvars.ContextVar("colour", default="none")
released = threading.Event()


async def add_later(x: int, y: int = 0) -> int:
    await asyncio.sleep(0)
    return x + y


def add(x: int, y: int = 0) -> int:
    return x + y


def coroutine_of(x: int) -> Coroutine[Any, Any, int]:
    return add_later(x)


def name_thread() -> str:
    return threading.current_thread().name


async def name_thread_later() -> str:
    return threading.current_thread().name


def fail(exc: BaseException) -> None:
    raise exc


async def fail_later(exc: BaseException) -> None:
    raise exc


def take_colour(new: str) -> str:
    old = colour.get()
    colour.set(new)
    return old


async def take_colour_later(new: str) -> str:
    return take_colour(new)


async def sleep_long() -> None:
    await asyncio.sleep(LONG)


async def swallow_cancellation() -> str:
    try:
        await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        return "still here"
    return "slept"


async def never_give_in() -> None:
    while not released.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


def wait_for_release() -> str:
    assert released.wait(LONG)
    return "released"


def return_lock() -> object:
    return threading.Lock()


class Later:
    async def __call__(self, x: int) -> int:
        return await add_later(x)


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail, (SystemExit("loading"),)


class Bench:
    """An Execution, and the outcomes that it gave."""

    def __init__(self, slots: int = 10) -> None:
        self.woken = asyncio.Event()
        self.execution = Execution(
            SERIALIZER, slots=slots, processes=1, now=lambda: datetime.now(UTC), on_end=self.woken.set
        )
        self.started = 0

    def start(self, function: Callable[..., Any], *args: Any, max_retries: int = 0, **more: Any) -> Claim:
        self.started += 1
        task_id = str(self.started)
        payload = SERIALIZER.dump_call(function, args, {}, task_id=task_id)
        claim = Claim(task_id, "w", 1, "default", None, *payload, 0, None, 0, max_retries, **more)
        self.execution.start(claim)
        return claim

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(LONG):
            while not self.execution.outcomes:
                await self.woken.wait()
                self.woken.clear()
        return self.execution.outcomes.popleft()

    async def until_free(self, slots: int) -> None:
        async with asyncio.timeout(LONG):
            while self.execution.free_slots < slots:
                self.woken.clear()
                await self.woken.wait()


def on_a_bench(scenario: Callable[[Bench], Awaitable[None]], slots: int = 10) -> None:
    async def main() -> None:
        bench = Bench(slots)
        await scenario(bench)
        bench.execution.shut_down()

    released.clear()
    asyncio.run(main())


def end_of(function: Callable[..., Any], *args: Any, **more: Any) -> Outcome:
    outcomes: list[Outcome] = []

    async def scenario(bench: Bench) -> None:
        bench.start(function, *args, **more)
        outcomes.append(await bench.outcome())
        assert bench.execution.free_slots == 10
        assert not bench.execution.unfinished

    on_a_bench(scenario)
    return outcomes[0]


def value_of(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    outcome = end_of(function, *args, **more)
    assert outcome.status is TaskStatus.COMPLETED, outcome.traceback
    assert outcome.value is not None
    return SERIALIZER.load_result(outcome.value, task_id=outcome.token.task_id)
