"""The worker: claims tasks, runs them and writes how they ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from .backends.base import BaseBackend
from .claims import DEFAULT_LEASE
from .exceptions import WorkerError
from .ids import new_id
from .options import DEFAULT_QUEUE, check_int, check_names, check_seconds, check_verbs, refuse
from .retention import check_retention
from .rounds import Rounds, Settings
from .serialization import CloudpickleSerializer, Serializer
from .signals import StopSignals
from .transactional import DEFAULT_TRANSACTION_WARNING

logger = logging.getLogger("sitq.worker")

DEFAULT_CONCURRENCY = 10
DEFAULT_SHUTDOWN_TIMEOUT = 30.0
LAST_GRACE = 15.0
"""Seconds that a worker has to give back what it runs, before ``stop`` leaves it behind."""

SHORTEST_INTERVAL = 0.001  # seconds, of polls and leases
MOST_SLOTS = 10_000


class Worker:
    """Runs the tasks of some queues: async functions on the event loop, sync ones in threads.

    Args:
        backend: where the tasks are; may be shared with queues and other workers.
        queues: names of the queues; tasks of an earlier one go first.
        concurrency: how many tasks run at once.
        processes: how many of those with ``executor="process"`` run at once; one for each processor unless given.
        poll_interval: seconds between looks for tasks of which this process has no news. Unless given, 0.2, and
            0.5 where it hears of what other processes enqueue, so that only tasks inserted by hand wait for it.
        lease: for how long a claim outlives a worker that has died, in seconds. A live worker extends its
            claims, however long its tasks take.
        retention: for how long ended tasks are kept, in seconds or as a ``timedelta``; for good unless given.
        shutdown_timeout: how long a worker that stops waits for what it runs, in seconds; then it gives it back.
        serializer: what the queue was given; ``CloudpickleSerializer()`` unless told otherwise.
        transaction_warning: after how many seconds the open transaction of a transactional task is reported in
            the log.

    Raises ``ConfigurationError`` for a value that is not allowed. Nothing is opened before ``start``.

    A worker can be started again after it has stopped. ``async with worker:`` starts and stops it.
    """

    def __init__(
        self,
        backend: BaseBackend,
        *,
        queues: Iterable[str] = (DEFAULT_QUEUE,),
        concurrency: int = DEFAULT_CONCURRENCY,
        processes: int | None = None,
        poll_interval: float | timedelta | None = None,
        lease: float | timedelta = DEFAULT_LEASE,
        retention: float | timedelta | None = None,
        shutdown_timeout: float | timedelta = DEFAULT_SHUTDOWN_TIMEOUT,
        serializer: Serializer | None = None,
        transaction_warning: float | timedelta = DEFAULT_TRANSACTION_WARNING,
    ) -> None:
        if not isinstance(backend, BaseBackend):
            refuse("backend", backend, "a backend, as SQLiteBackend('tasks.db') is")
        self._backend = backend
        self._settings = Settings(
            queues=check_names("queues", queues),
            concurrency=check_int("concurrency", concurrency, at_least=1, at_most=MOST_SLOTS),
            processes=check_int("processes", default_processes() if processes is None else processes, at_least=1),
            poll_interval=check_poll_interval(poll_interval),
            lease=check_seconds("lease", lease, at_least=SHORTEST_INTERVAL),
            serializer=_check_serializer(serializer),
            transaction_warning=check_seconds("transaction_warning", transaction_warning, at_least=SHORTEST_INTERVAL),
            retention=check_retention(backend, retention),
        )
        self._shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        self._rounds: Rounds | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = False
        self._told_to_stop_at_once = False

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"Worker({self._backend!r}, queues={self._settings.queues!r}, {state})"

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended yet."""
        return self._task is not None and not self._task.done() and not self._task.get_loop().is_closed()

    async def start(self) -> None:
        """Open the backend and work in the background of this event loop, until ``stop``.

        Raises:
            WorkerError: it is running already.
            BackendError: the backend cannot be opened, or not to write.
        """
        if self.running or self._starting:
            raise WorkerError("the worker is running already; a second one needs a Worker of its own")
        self._starting = True
        try:
            # The first use opens it. Not by initialize: whoever keeps tasks in a dict makes a new one there.
            await self._backend.apaused_queues()
        finally:
            self._starting = False
        worker_id = f"{socket.gethostname()}-{os.getpid()}-{new_id()}"
        self._told_to_stop_at_once = False
        self._rounds = Rounds(self._backend, self._settings, worker_id=worker_id)
        self._task = asyncio.get_running_loop().create_task(self._rounds.run(), name=f"sitq-worker-{worker_id}")
        fields = {"event": "worker_started", "worker_id": worker_id, "queues": self._settings.queues}
        logger.info("worker started", extra=fields)

    async def stop(self) -> None:
        """Claim nothing more, wait for what is running, and return when all of it is written.

        What still runs after ``shutdown_timeout`` seconds is given back to the queue, as if it had not been
        claimed: async functions are cancelled, processes killed, threads left to end by themselves. A worker
        that is not running is left alone. Cancelling ``stop`` stops the waiting, not the stopping.
        """
        rounds, task = self._rounds, self._task
        if rounds is None or task is None or not self.running:
            return
        if task.get_loop() is not asyncio.get_running_loop():
            raise WorkerError("stop the worker on the event loop that it was started on")
        rounds.stop()
        timer = task.get_loop().call_later(self._shutdown_timeout, self._stop_at_once)
        task.add_done_callback(lambda _: timer.cancel())
        await asyncio.wait([task], timeout=self._shutdown_timeout + LAST_GRACE)
        if not task.done():
            logger.error("worker does not stop, it is left behind", extra={"event": "worker_left_behind"})
            return
        logger.info("worker stopped", extra={"event": "worker_stopped"})
        if not task.cancelled():
            task.result()

    def run(self) -> None:
        """Work until SIGINT or SIGTERM, then stop as ``stop`` does. A second signal stops at once.

        Functions on the event loop are then cancelled and their tasks given back, with those in threads.
        What the process had loaded when it began is left out by Python's garbage collector meanwhile.

        Raises ``WorkerError`` outside the main thread and inside a running event loop: use ``start`` there.
        """
        if threading.current_thread() is not threading.main_thread():
            raise WorkerError("signals reach the main thread only: call run() there, or start() on an event loop")
        if _on_a_loop():
            raise WorkerError("an event loop is running already: use await worker.start()")
        asyncio.run(self._run_until_signal())

    async def _run_until_signal(self) -> None:
        asked = asyncio.Event()
        with StopSignals(asked.set, self._stop_at_once):
            async with self:
                assert self._task is not None
                waiting = asyncio.ensure_future(asked.wait())
                with _passing_over_loaded():
                    await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()

    def _stop_at_once(self) -> None:
        if self._task is not None and not self._told_to_stop_at_once:
            self._told_to_stop_at_once = True  # again would interrupt the giving back
            self._task.cancel()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()


@contextmanager
def _passing_over_loaded() -> Iterator[None]:
    """Let the garbage collector pass over what is there now: modules, tables, statements, all here to stay.

    It would walk over all of that each few thousand tasks, for some 40 ms.
    """
    was_frozen = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()


def _check_serializer(serializer: Serializer | None) -> Serializer:
    if serializer is None:
        return CloudpickleSerializer()
    return check_verbs("serializer", serializer, ("load_call", "dump_result"), "a Serializer")


def check_poll_interval(poll_interval: float | timedelta | None) -> float | None:
    """Return seconds, or ``None`` for the default."""
    if poll_interval is None:
        return None
    return check_seconds("poll_interval", poll_interval, at_least=SHORTEST_INTERVAL)


def default_processes() -> int:
    """As many as there are processors for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
