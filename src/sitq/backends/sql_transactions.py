"""Transactions of tasks, over a ``Database``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..exceptions import NotAvailableError
from ..task_transaction import AsyncSessionTransaction, SessionTransaction, atransact, transact
from .sql_joining import JoiningBackend

T = TypeVar("T")


class TransactionalBackend(JoiningBackend):
    """See ``Transactions``, which documents each verb."""

    def require_transactions(self, is_async: bool) -> None:
        if is_async and not self._database.dialect.has_async_driver:
            raise NotAvailableError(
                f"an async function needs an async driver for its session, and {self._database.target} has a sync "
                "driver only: let the function be sync, or give the backend an AsyncEngine or another URL"
            )

    def transact(self, work: Callable[[SessionTransaction], T]) -> T:
        return transact(self._database, work)

    async def atransact(self, work: Callable[[AsyncSessionTransaction], Awaitable[T]]) -> T:
        self.require_transactions(True)
        return await atransact(self._database, work)
