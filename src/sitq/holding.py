"""Which database's only write lock the running task holds, so that it does not wait for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .exceptions import DatabaseLockedError

_held: ContextVar[tuple[object, Callable[[], bool]] | None] = ContextVar("sitq_held", default=None)


@contextmanager
def holding(database: object, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Note that this context has a transaction in the database, which holds the lock once it has begun."""
    token = _held.set((database, has_begun))
    try:
        yield
    finally:
        _held.reset(token)


def require_not_held(database: object) -> None:
    """Raise ``DatabaseLockedError`` for a write that could only wait until its own task has ended."""
    held = _held.get()
    if held is not None and held[0] is database and held[1]():
        raise DatabaseLockedError(
            "the transaction of this task holds the write lock, so a write beside it would wait for ever: "
            "enqueue with queue.enqueue_in(session, ...), or write before the session is first used"
        )
