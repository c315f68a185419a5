"""Waking whoever waits in this process: workers for tasks, callers for results.

A backend notifies a topic after the commit that made the news; a subscriber may miss nothing that was
notified since it subscribed, and may be woken for nothing. What happens in other processes reaches a
topic through the backend (a watch of the file, LISTEN) or not at all, so every waiter also polls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from types import TracebackType

RESULTS = "results"
"""The topic that is notified when tasks have ended."""

CANCELLATIONS = "cancellations"
"""The topic that is notified when running tasks are to be cancelled."""


def queue_topic(queue: str) -> str:
    """The topic that is notified when a task of this queue may have become due."""
    return f"queue:{queue}"


class Subscription:
    """One waiter. Wait on the thread or the event loop that made it."""

    def __init__(self, wakeups: Wakeups, topics: tuple[str, ...], loop: asyncio.AbstractEventLoop | None) -> None:
        self._wakeups = wakeups
        self._topics = topics
        self._loop = loop
        self._event = threading.Event()
        self._async_event = asyncio.Event() if loop else None

    def wake(self) -> None:
        """Wake the waiter; callable from any thread."""
        if self._event.is_set():
            return
        self._event.set()
        if self._loop is not None and self._async_event is not None:
            try:
                self._loop.call_soon_threadsafe(self._async_event.set)
            except RuntimeError:  # the loop is closed, so nobody waits any more
                self._wakeups.drop(self, self._topics)

    def wait(self, timeout: float | None) -> bool:
        """Block until woken or ``timeout`` seconds are up; say whether it was woken."""
        woken = self._event.wait(timeout)
        self._event.clear()
        return woken

    async def await_wake(self, timeout: float | None) -> bool:
        """Wait until woken or ``timeout`` seconds are up; say whether it was woken."""
        assert self._async_event is not None, "a subscription made without a loop waits with wait()"
        try:
            async with asyncio.timeout(timeout):
                await self._async_event.wait()
        except TimeoutError:
            return False
        self._async_event.clear()
        self._event.clear()
        return True

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._wakeups.drop(self, self._topics)


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

    def subscribe(self, topics: Iterable[str]) -> Subscription:
        """Wait for these topics on this thread, with ``wait``; use as a context manager."""
        return self._add(tuple(topics), None)

    def asubscribe(self, topics: Iterable[str]) -> Subscription:
        """Wait for these topics on the running event loop, with ``await_wake``; use as a context manager."""
        return self._add(tuple(topics), asyncio.get_running_loop())

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

    def _add(self, topics: tuple[str, ...], loop: asyncio.AbstractEventLoop | None) -> Subscription:
        subscription = Subscription(self, topics, loop)
        with self._lock:
            for topic in topics:
                self._subscriptions[topic].add(subscription)
        if self.on_subscribe is not None:
            self.on_subscribe()
        return subscription
