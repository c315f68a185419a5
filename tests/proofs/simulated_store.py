"""One SQLite database for all seeds, and the ways of simulated workers and of the app to it, where calls go wrong.

Each way is a backend of its own with a connection of its own, as another process has it. What it commits the judge
sees at once; the answer may still be lost, or find that its worker has died.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Protocol

from sqlalchemy import event

from proofs.judge import Violation
from proofs.simulated_worker import Died
from server_contract import TABLES
from sitq import BackendError, DatabaseUnavailableError, SQLiteBackend
from sitq.testing import MovableClock
from sitq.wakeups import Wakeups

FENCED = ("finish", "finish_and_claim", "extend", "write_progress")
LOCKED = ("database is locked", "database table is locked")


class Store:
    """The file, and as many backends over it as there may be processes. Emptied for each seed."""

    def __init__(self, folder: Path, backends: int) -> None:
        path = folder / "tasks.db"
        self.backends = [SQLiteBackend(path, connection_timeout=0) for _ in range(backends)]
        for backend in self.backends:
            backend.initialize()
            event.listen(backend.engine, "after_cursor_execute", self._after_statement)
            event.listen(backend.engine, "handle_error", self._after_error)
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.interrupt: Callable[[], None] | None = None
        self.is_interrupted = False
        self.begun_and_lost: str | None = None

    def empty(self, clock: MovableClock) -> None:
        for table in TABLES:
            self.connection.execute(f"DELETE FROM {table}")
        for backend in self.backends:
            backend.use_clock(clock)
        self.interrupt = self.begun_and_lost = None

    def close(self) -> None:
        self.connection.close()
        for backend in self.backends:
            backend.close()

    def _after_statement(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        """Between the first statement of a transaction and the next, somebody else may want to write."""
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            self.is_interrupted = True
            try:
                interrupt()
            finally:
                self.is_interrupted = False

    def _after_error(self, context: Any) -> None:
        if any(words in str(context.original_exception) for words in LOCKED):
            self.begun_and_lost = str(context.statement)


class Fates(Protocol):
    """What a simulation decides about calls."""

    random: Random
    faults: float
    happened: Counter[str]

    def intrusion(self, link: Link) -> Callable[[], None]: ...  # fmt: skip
    def condemn(self, problem: Exception) -> None: ...
    def see(self, verb: str, args: tuple[Any, ...], answer: Any) -> None: ...
    def note(self, *what: object) -> None: ...


class Link:
    """What a worker takes for its backend. The verbs that it calls go to one of the store's, if all goes well."""

    def __init__(self, name: str, store: Store, backend: SQLiteBackend, fates: Fates, wakeups: Wakeups) -> None:
        self.name = name
        self.wakeups = wakeups
        self.is_dead = False
        self.presence: Callable[[str], AbstractContextManager[Any]] | Any = None
        self.on_fault: Callable[[], None] = lambda: None
        self._store = store
        self._backend = backend
        self._fates = fates

    def now(self) -> datetime:
        return self._backend.now()

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if hasattr(SQLiteBackend, verb) and verb.startswith("a") and hasattr(SQLiteBackend, verb[1:]):
            return lambda *args: self._acall(verb[1:], args)
        if hasattr(SQLiteBackend, verb):
            return lambda *args: self._call(verb, args)
        raise AttributeError(verb)

    async def anext_due_at(self, queues: Any) -> None:
        """Workers poll: there is nothing in this answer that could go wrong."""

    async def _acall(self, verb: str, args: tuple[Any, ...]) -> Any:
        """Others may act before the commit, and between the commit and the moment at which the caller learns of it."""
        try:
            await asyncio.sleep(0)
            answer = self._call(verb, args)
            await asyncio.sleep(0)
        except Died:
            await asyncio.get_running_loop().create_future()
        return answer

    def _call(self, verb: str, args: tuple[Any, ...]) -> Any:
        self._die_if(self.is_dead)
        fate = self._fate()
        if fate != "goes well":
            self._fates.happened[f"a call {fate}"] += 1
        self._die_if(fate == "dies before")
        if fate == "is refused":
            raise self._fault(verb, DatabaseUnavailableError("the server is away"))
        answer = self._commit(verb, args, disturbed=fate == "is disturbed")
        self._die_if(fate == "dies after")
        if fate == "loses the answer":
            raise self._fault(verb, DatabaseUnavailableError("the connection was lost"))
        return answer

    def _fate(self) -> str:
        if self._fates.random.random() >= self._fates.faults:
            return "goes well"
        return self._fates.random.choice(
            ["dies before", "dies after", "is refused", "loses the answer", "loses the answer"] + ["is disturbed"] * 4
        )

    def _die_if(self, dies: bool) -> None:
        if dies:
            self.is_dead = True
            self.on_fault()
            self._fates.note(self.name, "is dead")
            raise Died

    def _commit(self, verb: str, args: tuple[Any, ...], *, disturbed: bool) -> Any:
        if disturbed and not self._store.is_interrupted:
            self._store.interrupt = self._fates.intrusion(self)
        try:
            answer = getattr(self._backend, verb)(*args)
        except BackendError as error:
            lost, self._store.begun_and_lost = self._store.begun_and_lost, None
            if lost is not None:
                self._fates.condemn(Violation(f"{verb} had begun, and lost its transaction at: {lost}"))
            raise self._fault(verb, error) from None
        finally:
            self._store.interrupt = None
        self._fates.note(self.name, verb, *args, "->", answer)
        self._fates.see(verb, args, answer)
        return answer

    def _fault(self, verb: str, error: BackendError) -> BackendError:
        self.on_fault()
        self._fates.note(self.name, verb, "failed:", type(error).__name__)
        return error


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def happened_in(verb: str, answer: Any) -> Counter[str]:
    """What a call of a verb stands for in the summary."""
    happened = Counter({"commits": 1})
    if verb == "enqueue":
        happened["enqueued"] = len(answer)
    if verb.startswith("reap"):
        happened["put back: lapsed" if verb == "reap" else "put back: worker died"] = len(answer)
    if verb == "finish_and_claim":
        happened["claimed"] = len(answer[1])
        happened["claimed to run alone"] = sum(claim.isolated for claim in answer[1])
    if verb in FENCED:
        held = answer[0] if verb == "finish_and_claim" else answer
        happened["writes fenced off"] = sum(not holds for holds in held)
    return happened
