"""Enqueueing in a transaction of the app's own: what every backend says to it."""

from __future__ import annotations

from collections.abc import Sequence

from ..claims import TaskRow
from ..exceptions import NotAvailableError
from ..joining import AsyncTransaction, SyncTransaction

__all__ = ["AsyncTransaction", "Joining", "SyncTransaction"]


class Joining:
    """The verbs of a backend that lives in a database which an app may use too."""

    def enqueue_in(self, transaction: SyncTransaction | AsyncTransaction, rows: Sequence[TaskRow]) -> list[str]:
        """Do as ``enqueue`` does, in a transaction that the caller commits or rolls back.

        The default raises ``NotAvailableError``: only a database has transactions that can be joined.
        """
        raise NotAvailableError(
            f"{type(self).__name__} keeps its tasks in no database that your transaction could be in: use enqueue "
            f"after your commit, or a backend such as SQLAlchemyBackend(engine)"
        )

    async def aenqueue_in(self, transaction: AsyncTransaction, rows: Sequence[TaskRow]) -> list[str]:
        """See ``enqueue_in``; of an async session it can also ask whether a unique key is free."""
        return self.enqueue_in(transaction, rows)
