"""Functions that tests let workers run, and what those tests need around them.

The functions are imported by name wherever they run, so what they tell is kept here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dict_backend import DictBackend
from sitq.backends.base import BaseBackend
from sitq.queue import TaskQueue
from sitq.worker import Worker

LONG = 30.0  # seconds; nothing waits for so long unless it is broken

gate = threading.Event()
started = threading.Semaphore(0)
ran: list[Any] = []


class Gauge:
    """How many tasks run, and how many have run at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


gauge = Gauge()


def reset() -> None:
    """Forget what earlier tests left."""
    gate.clear()
    ran.clear()
    gauge.now = gauge.most = 0
    while started.acquire(blocking=False):
        pass


def note(value: Any) -> Any:
    ran.append(value)
    return value


async def note_later(value: Any) -> Any:
    return note(value)


def raise_it(kind: type[BaseException]) -> None:
    raise kind("on purpose")


async def raise_it_later(kind: type[BaseException]) -> None:
    raise kind("on purpose")


def fail_until(name: str, attempts: int) -> int:
    ran.append(name)
    if ran.count(name) < attempts:
        raise ValueError("not yet")
    return ran.count(name)


def wait_at_gate(value: int) -> int:
    started.release()
    assert gate.wait(LONG)
    return value


async def wait_at_gate_later(value: int) -> int:
    started.release()
    while not gate.is_set():  # noqa: ASYNC110  # it is opened from any thread
        await asyncio.sleep(0.005)
    return value


def gauged() -> None:
    with gauge:
        time.sleep(0.002)


async def gauged_later() -> None:
    with gauge:
        await asyncio.sleep(0.002)


class Spy(DictBackend):
    """Notes how many tasks each claim asked for and got."""

    def __init__(self) -> None:
        super().__init__()
        self.claimed: list[tuple[int, int]] = []
        self.finished: list[int] = []

    async def afinish_and_claim(self, outcomes: Any, request: Any) -> Any:
        held, claims = await super().afinish_and_claim(outcomes, request)
        self.finished.append(len(outcomes))
        if request is not None:
            self.claimed.append((request.limit, len(claims)))
        return held, claims


@asynccontextmanager
async def at_work(backend: BaseBackend, **options: Any) -> AsyncIterator[TaskQueue]:
    async with backend, Worker(backend, **options):
        yield TaskQueue(backend)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LONG * 2):
            await scenario()

    asyncio.run(main())


async def wait_started(count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(started.acquire, timeout=LONG)


async def until(condition: Callable[[], object]) -> None:
    """Look again and again until something holds of which there is no news."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)
