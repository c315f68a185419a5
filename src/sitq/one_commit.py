"""Enqueueing in a transaction of the app's own, so that its rows and its tasks are committed together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

from .backends.base import BaseBackend
from .backends.joining import AsyncTransaction, SyncTransaction
from .calls import CallPreparer, CallRow

P = ParamSpec("P")


class JoiningEnqueuer:
    """The verbs that both queues have, since adding to a session needs no ``await``."""

    def __init__(self, backend: BaseBackend, calls: CallPreparer) -> None:
        self._backend = backend
        self._calls = calls

    def enqueue_in(
        self,
        session: SyncTransaction | AsyncTransaction,
        function: Callable[P, Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> str:
        """Enqueue a call in your own transaction; return the id of the task at once.

        The task is added to the session like any other object: it is flushed with them, committed with them,
        and gone if they are rolled back, also to a savepoint. Workers are woken after the commit. Over a
        ``Connection``, and wherever the task has a ``unique_key``, it is inserted at once instead.

        Args:
            session: a ``Session``, ``scoped_session``, ``AsyncSession`` or ``Connection``; of an
                ``AsyncConnection`` what its ``run_sync`` gives.
            function: what to call.
            *args: its arguments.
            **kwargs: its keywords.

        Raises:
            InvalidArgumentError: ``function`` cannot be called, or not with these arguments; or there is a
                ``unique_key``, and the session is async: use ``aenqueue_in``.
            ConfigurationError: the session is bound to another database than the queue's.
            NotAvailableError: the queue's backend keeps its tasks in no database.
            SchemaError: the backend has not been initialized.
            SerializationError: the function or an argument cannot be stored.
            DuplicateTaskError: see ``enqueue``. Your transaction can go on.
        """
        return self._backend.enqueue_in(session, [self._calls.row(function, args, kwargs)])[0]

    def enqueue_many_in(
        self, session: SyncTransaction | AsyncTransaction, function: Callable[..., Any], rows: Iterable[CallRow]
    ) -> list[str]:
        """Enqueue one call for each row in your own transaction; return the ids in the order of the rows.

        Every row is checked before the first is added. See ``enqueue_in`` and ``enqueue_many``.
        """
        return self._backend.enqueue_in(session, list(self._calls.rows(function, rows)))


class AsyncJoiningEnqueuer(JoiningEnqueuer):
    """The same with ``await``, for tasks about which the database must be asked."""

    async def aenqueue_in(
        self, session: AsyncTransaction, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> str:
        """``enqueue_in`` for an ``AsyncSession`` or an ``AsyncConnection``; the task may have a ``unique_key``."""
        return (await self._backend.aenqueue_in(session, [self._calls.row(function, args, kwargs)]))[0]

    async def aenqueue_many_in(
        self, session: AsyncTransaction, function: Callable[..., Any], rows: Iterable[CallRow]
    ) -> list[str]:
        """``enqueue_many_in`` for an ``AsyncSession`` or an ``AsyncConnection``; tasks may have a ``unique_key``."""
        return await self._backend.aenqueue_in(session, list(self._calls.rows(function, rows)))
