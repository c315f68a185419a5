"""The part of the contract that lets a task's effects and its completion be committed together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from ..claims import Outcome, Progress
from ..exceptions import NotAvailableError

T = TypeVar("T")


class OpenTransaction(Protocol):
    """What is known of a task's transaction.

    Attributes:
        session: what the function is given.
        begun_at: when the transaction began, by ``time.monotonic``; ``None`` as long as it has not.
    """

    session: Any

    @property
    def begun_at(self) -> float | None: ...  # noqa: D102


class TaskTransaction(OpenTransaction, Protocol):
    """The transaction of a sync function."""

    def complete(self, outcome: Outcome, progress: Progress | None = None) -> bool:
        """Commit the function's effects with its task's completion, and say whether the claim still held.

        If it did not, everything is rolled back. ``progress`` is the function's last word of how far it is.
        """


class AsyncTaskTransaction(OpenTransaction, Protocol):
    """The transaction of an async function."""

    async def complete(self, outcome: Outcome, progress: Progress | None = None) -> bool:
        """See ``TaskTransaction``."""


class Transactions:
    """What ``BaseBackend`` has of it. The defaults say that this storage has no such transactions."""

    def require_transactions(self, is_async: bool) -> None:
        """Raise ``NotAvailableError`` where no transactional task, of an async function or a sync one, could run."""
        raise NotAvailableError(
            f"{type(self).__name__} has no transactions that tasks could share: "
            "@sitq.task(transactional=True) needs a database that SQLAlchemy reaches"
        )

    def transact(self, work: Callable[[TaskTransaction], T]) -> T:
        """Call ``work`` with a transaction, and return what it returned; what it did not complete is rolled back."""
        self.require_transactions(False)
        raise NotImplementedError(f"{type(self).__name__} has no transact")

    async def atransact(self, work: Callable[[AsyncTaskTransaction], Awaitable[T]]) -> T:
        """See ``transact``; the session is for the running event loop."""
        self.require_transactions(True)
        raise NotImplementedError(f"{type(self).__name__} has no atransact")
