"""A worker as it is, but for its threads: its rounds run on a loop of simulated time, and its threads are stepped.

``Rounds``, ``Execution``, ``Heartbeat`` and ``Lookout`` are the real ones. Whoever steps a worker says when its event
loop goes on, when its heartbeat beats and when its lookout looks; a worker that is never stepped again is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from unittest import mock

from sitq import attendant
from sitq.heartbeat import BEATS_PER_LEASE, RETRIES_PER_BEAT, Heartbeat
from sitq.lookout import Lookout
from sitq.presence import Presence
from sitq.rounds import Rounds, Settings
from sitq.serialization import Call, Payload

QUEUES = ("a", "b")
LEASE = 30.0
POLL = 15.0
LOOK = 10.0
ATTEND = 15.0


class Died(BaseException):  # not an error: a worker's end, in the middle of a call
    """The process of a worker is gone."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop whose time is given to it, and which waits for nothing."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__()
        self._time = time
        self._selector = self

    def time(self) -> float:
        return self._time()

    def select(self, timeout: float | None) -> list[Any]:
        return []

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """What is handed to a thread is done by the time anybody looks."""
        done = self.create_future()
        done.set_result(func(*args))
        return done

    def step(self) -> None:
        """Run once through what is ready."""
        self.call_soon(self.stop)
        self.run_forever()

    @property
    def is_ready(self) -> bool:
        due = self.next_timer()
        return bool(self._ready) or (due is not None and due <= self.time())

    def next_timer(self) -> float | None:
        live = [timer.when() for timer in self._scheduled if not timer.cancelled()]
        return min(live, default=None)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class Host(Protocol):
    """What a worker is simulated in."""

    def time(self) -> float: ...
    def dead_on(self, machine: int) -> list[str]: ...
    def forget(self, worker_ids: list[str]) -> None: ...
    async def work(self, worker: SimulatedWorker, task_id: str) -> bytes: ...


class SimulatedPresence(Presence):
    """Shows the deaths of workers on the same machine."""

    def __init__(self, worker_id: str, host: Host, machine: int) -> None:
        super().__init__(worker_id)
        self._host = host
        self._machine = machine

    @contextlib.contextmanager
    def dead_workers(self) -> Iterator[list[str]]:
        dead = self._host.dead_on(self._machine)
        yield dead
        self._host.forget(dead)


class Functions:
    """A serializer that makes every task a call of the host's ``work``."""

    def __init__(self, host: Host, worker: SimulatedWorker) -> None:
        self._host = host
        self._worker = worker

    def load_call(self, payload: Payload, *, task_id: str) -> Call:
        return Call(self._host.work, (self._worker, task_id), {})

    def dump_result(self, value: bytes, *, task_id: str) -> bytes:
        return value


class SimulatedWorker:
    """One process. ``link`` is its way to the store."""

    def __init__(self, worker_id: str, host: Host, link: Any, *, machine: int, concurrency: int) -> None:
        self.id = worker_id
        self.machine = machine
        self.host = host
        self.stalled_until = 0.0  # the whole process
        self.blocked_until = 0.0  # its event loop
        self.is_dead = False
        self.looks = 0
        self.next_beat = self.next_look = host.time()
        self.loop = SimulatedLoop(host.time)
        settings = Settings(
            queues=QUEUES,
            concurrency=concurrency,
            processes=1,
            poll_interval=POLL,
            lease=LEASE,
            transaction_warning=LEASE,
            serializer=Functions(host, self),  # type: ignore[arg-type]
        )
        self.task = self.loop.create_task(self._live(link, settings))
        self.rounds: Rounds | None = None

    async def _live(self, link: Any, settings: Settings) -> None:
        self.rounds = Rounds(link, settings, worker_id=self.id)
        await self.rounds.run()

    @property
    def is_over(self) -> bool:
        return self.is_dead or self.task.done()

    def may_go_on(self) -> bool:
        return not self.is_over and self.host.time() >= self.stalled_until

    def turns(self) -> list[Callable[[], None]]:
        """What may happen to it now, each a step."""
        if not self.may_go_on():
            return []
        turns: list[Callable[[], None]] = []
        if self.loop.is_ready and self.host.time() >= self.blocked_until:
            turns.append(self.turn)
        if self.rounds is not None and self.next_beat <= self.host.time():
            turns.append(self.beat)
        if self.rounds is not None and self.next_look <= self.host.time():
            turns.append(self.look)
        return turns

    def next_event(self) -> float | None:
        """When something may happen to it next, if nothing can now."""
        if self.is_over:
            return None
        timer = self.loop.next_timer()
        times = [] if self.rounds is None else [self.next_beat, self.next_look]
        times += [] if timer is None else [max(timer, self.blocked_until)]
        times += [self.blocked_until] if self.loop._ready and self.blocked_until > self.host.time() else []
        return max(min(times), self.stalled_until) if times else None

    def turn(self) -> None:
        """Its event loop goes on by a step."""
        self.loop.step()

    def beat(self) -> None:
        """Its heartbeat beats."""
        assert self.rounds is not None
        with contextlib.suppress(Died):
            healthy = self.rounds._heartbeat._beat()
            interval = LEASE / BEATS_PER_LEASE
            self.next_beat = self.host.time() + (interval if healthy else interval / RETRIES_PER_BEAT)

    def look(self) -> None:
        """Its lookout looks, and tries again where it could not."""
        assert self.rounds is not None
        self.looks += 1
        self.next_look = self.host.time() + LOOK
        with contextlib.suppress(Exception, Died):
            self.rounds._lookout._look(asks=self.looks % 2 == 0)

    def stop(self) -> None:
        if self.rounds is not None:
            self.rounds.stop()

    def stop_at_once(self) -> None:
        if self.rounds is not None:
            self.task.cancel()

    def bury(self) -> None:
        """Let nothing be left of its coroutines; its link answers nobody any more."""
        self.is_dead = True
        for _ in range(20):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.step()
            if not asyncio.all_tasks(self.loop):
                break
        self.loop.close()


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    """Let no thread of a worker start: the simulation does what they do. Nobody reads the logs."""

    def nothing(*_: object) -> None:
        pass

    logger = logging.getLogger("sitq")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with (
        mock.patch.multiple(Heartbeat, start=nothing, join=nothing),
        mock.patch.multiple(Lookout, start=nothing, join=nothing),
        mock.patch.object(attendant, "INTERVAL", ATTEND),
    ):
        try:
            yield
        finally:
            logger.setLevel(level)
