"""Enqueueing in a transaction of the app's own, over a ``Database``: the third door beside its two."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from .. import store
from ..claims import TaskRow
from ..joining import AsyncTransaction, SyncTransaction, ThirdDoor
from .sql_interventions import IntervenedBackend


class JoiningBackend(IntervenedBackend):
    """See ``Joining``, which documents each verb."""

    def enqueue_in(self, transaction: SyncTransaction | AsyncTransaction, rows: Sequence[TaskRow]) -> list[str]:
        return self._third_door.enqueue(transaction, store.with_scheduled(rows, self.now))

    async def aenqueue_in(self, transaction: AsyncTransaction, rows: Sequence[TaskRow]) -> list[str]:
        return await self._third_door.aenqueue(transaction, store.with_scheduled(rows, self.now))

    @cached_property
    def _third_door(self) -> ThirdDoor:
        return ThirdDoor(self._database)
