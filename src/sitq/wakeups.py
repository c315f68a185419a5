"""Waking whoever waits in this process: workers for tasks, callers for results.

A backend notifies a topic after the commit that made the news; a subscriber may miss nothing that was
notified since it subscribed, and may be woken for nothing. What happens in other processes reaches a
topic through the backend (a watch of the file, LISTEN) or not at all, so every waiter also polls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Self, TypeVar

AnySubscription = TypeVar("AnySubscription", bound="Subscription")

RESULTS = "results"
"""The topic that is notified when tasks have ended."""

CANCELLATIONS = "cancellations"
"""The topic that is notified when running tasks are to be cancelled."""


def queue_topic(queue: str) -> str:
    """The topic that is notified when a task of this queue may have become due."""
    return f"queue:{queue}"


class Subscription(ABC):
    """One waiter."""

    def __init__(self, wakeups: Wakeups, topics: tuple[str, ...]) -> None:
        self._wakeups = wakeups
        self._topics = topics

    @abstractmethod
    def wake(self) -> None:
        """Wake the waiter; callable from any thread."""

    def drop(self) -> None:
        """Wait no more."""
        self._wakeups.drop(self, self._topics)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.drop()


class ThreadSubscription(Subscription):
    """A waiter on a thread."""

    def __init__(self, wakeups: Wakeups, topics: tuple[str, ...]) -> None:
        super().__init__(wakeups, topics)
        self._event = threading.Event()

    def wake(self) -> None:
        """See ``Subscription.wake``."""
        self._event.set()

    def wait(self, timeout: float | None) -> bool:
        """Block until woken or ``timeout`` seconds are up; say whether it was woken."""
        woken = self._event.wait(timeout)
        self._event.clear()
        return woken


class LoopSubscription(Subscription):
    """A waiter on the event loop that made it: one coroutine at a time."""

    def __init__(self, wakeups: Wakeups, topics: tuple[str, ...]) -> None:
        super().__init__(wakeups, topics)
        self._loop = asyncio.get_running_loop()
        self._is_called = False
        self._is_woken = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """See ``Subscription.wake``."""
        if not self._is_called:
            self._is_called = True
            try:
                self._loop.call_soon_threadsafe(self._wake_here)
            except RuntimeError:  # the loop is closed, so nobody waits any more
                self.drop()

    def _wake_here(self) -> None:
        self._is_woken = True
        self._end_wait()

    def _end_wait(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def await_wake(self, timeout: float | None) -> bool:
        """Wait until woken or ``timeout`` seconds are up; say whether it was woken."""
        if not self._is_woken:
            await self._wait(timeout)
        woken, self._is_woken = self._is_woken, False
        if woken:
            self._is_called = False
        return woken

    async def _wait(self, timeout: float | None) -> None:
        """Without what makes ``asyncio.timeout`` dear: it cancels and catches, and idle workers wait often."""
        self._waiting = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(timeout, self._end_wait)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()


class Wakeups:
    """The topics of one backend in one process.

    ``on_subscribe``, if set, is called after each subscription: a backend may then begin to hear of other
    processes, for as long as somebody waits. ``on_notify``, if set, is called with the topics of each news of
    this process, none for all of them, so that others hear of it. ``hears`` says whether news of other
    processes comes here just now, so that polling is but a safety net.
    """

    def __init__(self) -> None:
        self.on_subscribe: Callable[[], None] | None = None
        self.on_notify: Callable[[Collection[str]], None] | None = None
        self.hears = False
        self._lock = threading.Lock()
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._deserted_at = time.monotonic()

    def idle_for(self) -> float:
        """For how long nobody has waited, in seconds; 0 while somebody does."""
        with self._lock:
            return 0.0 if self._subscriptions else time.monotonic() - self._deserted_at

    def subscribe(self, topics: Iterable[str]) -> ThreadSubscription:
        """Wait for these topics on this thread; use as a context manager."""
        return self._add(ThreadSubscription, tuple(topics))

    def asubscribe(self, topics: Iterable[str]) -> LoopSubscription:
        """Wait for these topics on the running event loop; use as a context manager."""
        return self._add(LoopSubscription, tuple(topics))

    def notify(self, topics: Collection[str]) -> None:
        """Tell of news that this process has committed, here and elsewhere; callable from any thread."""
        self.wake(topics)
        if self.on_notify is not None and topics:
            self.on_notify(topics)

    def notify_all(self) -> None:
        """Tell everybody, here and elsewhere, to look."""
        self.wake_all()
        if self.on_notify is not None:
            self.on_notify(())

    def wake(self, topics: Collection[str] | None) -> None:
        """Wake every waiter of these topics in this process, or all of them; callable from any thread."""
        if topics is None:
            self.wake_all()
            return
        with self._lock:
            waiters = {waiter for topic in topics for waiter in self._subscriptions.get(topic, ())}
        for waiter in waiters:
            waiter.wake()

    def wake_all(self) -> None:
        """Wake every waiter in this process, since news may have been missed."""
        with self._lock:
            topics = list(self._subscriptions)
        self.wake(topics)

    def drop(self, subscription: Subscription, topics: Iterable[str]) -> None:
        """Forget a subscription."""
        with self._lock:
            for topic in topics:
                waiting = self._subscriptions.get(topic, set())
                waiting.discard(subscription)
                if not waiting:
                    self._subscriptions.pop(topic, None)
            self._deserted_at = time.monotonic()

    def _add(
        self, kind: Callable[[Wakeups, tuple[str, ...]], AnySubscription], topics: tuple[str, ...]
    ) -> AnySubscription:
        subscription = kind(self, topics)
        with self._lock:
            for topic in topics:
                self._subscriptions[topic].add(subscription)
        if self.on_subscribe is not None:
            self.on_subscribe()
        return subscription
