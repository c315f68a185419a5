"""One writer for a process and a backend: whoever writes at the same time is committed together.

Writers that fight for a database's lock are far slower than writers that queue. So each caller leaves its
write in a line; one of them takes the connection and commits all that wait in one transaction. A sync
caller that finds the connection free does so itself, without changing threads; async callers leave it to
the writer's thread. A call returns when the commit that holds its write has returned, never before.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar, cast

from sqlalchemy import Connection

from .write_connection import WriteConnection

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row")

WRITES_A_COMMIT = 1_000
"""How many writes are committed together at most, so that none holds the lock for long."""


class Write(Generic[T]):
    """One caller's write: a store function, what it is called with, and in the end its outcome.

    If ``rows`` is given, the function takes rows last and returns one answer for each, so that the rows
    of several callers can be written by one call. A write that is ``alone`` executes at most one statement that writes,
    and all by ``store.compiled`` where the database has a shortcut.
    """

    __slots__ = ("alone", "args", "done", "error", "function", "future", "outcome", "rows")

    def __init__(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        rows: Sequence[Any] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.function = function
        self.args = args
        self.rows = rows
        self.alone = alone
        self.outcome: T | None = None
        self.error: BaseException | None = None
        self.done = False
        self.future: asyncio.Future[T] | None = None

    def call(self, connection: Connection) -> T:
        """Run the write by itself."""
        args = self.args if self.rows is None else (*self.args, self.rows)
        return self.function(connection, *args)

    def fulfil(self, outcome: T) -> None:
        """Note what the write gave; the commit has returned."""
        self.outcome, self.done = outcome, True

    def fail(self, error: BaseException) -> None:
        """Note why nothing was written."""
        self.error, self.done = error, True

    def result(self) -> T:
        """What the write gave; raises what it raised."""
        if self.error is not None:
            raise self.error
        return cast(T, self.outcome)

    def settle(self) -> None:
        """Hand the outcome to the coroutine that awaits it; runs on its event loop."""
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(cast(T, self.outcome))


class Writer:
    """The line of writes, before the one connection that commits them."""

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self._waiting: deque[Write[Any]] = deque()
        self._committing = threading.Lock()
        self._starting = threading.Lock()  # never held for long: an event loop may wait for it
        self._thread: threading.Thread | None = None
        self._wake: SimpleQueue[None] | None = None  # wakes in half of the time that an event takes

    def write(self, write: Write[T]) -> T:
        """Commit a write and return its outcome; blocks while another thread commits."""
        if self._committing.acquire(blocking=False):
            try:
                if not self._waiting:  # most come alone, and need not stand in a line
                    return self._connection.commit(write.call, alone=write.alone)
            finally:
                self._committing.release()
        self._waiting.append(write)
        with self._committing:
            while not write.done:
                self._commit_some()
        return write.result()

    async def awrite(self, write: Write[T]) -> T:
        """Commit a write on the writer's thread and return its outcome.

        A caller that is cancelled while it waits does not take its write back.
        """
        write.future = asyncio.get_running_loop().create_future()
        self._waiting.append(write)
        (self._wake or self._start_thread()).put(None)
        return await write.future

    def close(self) -> None:
        """Commit what waits, end the thread and give the connection back."""
        with self._committing:
            # In this order: a write that still saw the thread's queue is in the line by now.
            with self._starting:
                wake, self._wake = self._wake, None
            while self._waiting:
                self._commit_some()
            self._connection.close()
        if wake is not None and self._thread is not None:
            wake.put(None)
            self._thread.join()

    def _start_thread(self) -> SimpleQueue[None]:
        with self._starting:
            if self._wake is None:
                self._wake = SimpleQueue()
                self._thread = threading.Thread(target=self._run, args=(self._wake,), name="sitq-writer", daemon=True)
                self._thread.start()
            return self._wake

    def _run(self, wake: SimpleQueue[None]) -> None:
        while self._wake is wake:
            wake.get()
            while self._waiting:
                with self._committing:
                    self._commit_some()

    def _commit_some(self) -> None:
        """Commit the writes that wait, at least the first of them; the caller holds ``_committing``."""
        writes = [self._waiting.popleft() for _ in range(min(len(self._waiting), WRITES_A_COMMIT))]
        try:
            self._commit(writes)
        except Exception as error:
            if self._connection.is_away(error):  # for each of them
                for write in writes:
                    write.fail(error)
            else:
                self._commit_apart(writes, error)
        except BaseException as error:
            for write in writes:
                write.fail(error)
            raise
        finally:
            hand_over(writes)

    def _commit_apart(self, writes: list[Write[Any]], error: Exception) -> None:
        """Commit each write by itself, so that only the faulty one's caller gets its error."""
        if len(writes) == 1:
            writes[0].fail(error)
            return
        for write in writes:
            try:
                self._commit([write])
            except Exception as own_error:
                write.fail(own_error)

    def _commit(self, writes: list[Write[Any]]) -> None:
        """Run the writes in one transaction; they are fulfilled when it has been committed."""
        alone = len(writes) == 1 and writes[0].alone
        outcomes = self._connection.commit(lambda connection: run_all(connection, writes), alone=alone)
        for write, outcome in zip(writes, outcomes, strict=True):
            write.fulfil(outcome)


def run_all(connection: Connection, writes: list[Write[Any]]) -> list[Any]:
    """Run writes in their order; return the outcome of each."""
    if len(writes) == 1:
        return [writes[0].call(connection)]
    return [outcome for group in alike(writes) for outcome in run_group(connection, group)]


def alike(writes: list[Write[Any]]) -> Iterator[list[Write[Any]]]:
    """Part the writes into runs that one call can serve: the same function, the same arguments but for rows."""

    def kind(numbered: tuple[int, Write[Any]]) -> tuple[Any, ...]:
        number, write = numbered
        return (number,) if write.rows is None else (write.function, write.args)

    for _, run in groupby(enumerate(writes), key=kind):
        yield [write for _, write in run]


def run_group(connection: Connection, group: list[Write[Any]]) -> list[Any]:
    """Run writes that one call can serve; return the outcome of each."""
    first = group[0]
    if len(group) == 1:
        return [first.call(connection)]
    answers = iter(first.function(connection, *first.args, [row for write in group for row in write.rows or ()]))
    return [list(islice(answers, len(write.rows or ()))) for write in group]


def hand_over(writes: list[Write[Any]]) -> None:
    """Wake the coroutines that await these writes: one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Write[Any]]] = {}
    for write in writes:
        if write.future is not None:
            by_loop.setdefault(write.future.get_loop(), []).append(write)
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(settle_all, settled)
        except RuntimeError:  # the loop was closed while its coroutine waited
            continue


def settle_all(writes: list[Write[Any]]) -> None:
    """Settle writes on the event loop that awaits them."""
    for write in writes:
        write.settle()
