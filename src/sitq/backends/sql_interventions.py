"""The verbs that reach into the life of a task, over a ``Database``: each takes a store function through a door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .. import store
from ..claims import CancelResult, Progress, RetryResult, Token
from ..models import TaskSelect
from ..store.tables import portions
from ..wakeups import CANCELLATIONS, RESULTS
from .operations import OperatedBackend


class IntervenedBackend(OperatedBackend):
    """See ``Interventions``, which documents each verb."""

    def cancel(self, task_ids: Sequence[str], reason: str | None = None) -> Mapping[str, CancelResult]:
        results = self._database.write(store.cancel, task_ids, reason, self.now())
        self._tell_of_cancelling(results.values())
        return results

    async def acancel(self, task_ids: Sequence[str], reason: str | None = None) -> Mapping[str, CancelResult]:
        results = await self._database.awrite(store.cancel, task_ids, reason, self.now())
        self._tell_of_cancelling(results.values())
        return results

    def _tell_of_cancelling(self, results: Iterable[CancelResult]) -> None:
        topics = {CancelResult.CANCELLED: RESULTS, CancelResult.REQUESTED: CANCELLATIONS}
        self.wakeups.notify({topics[result] for result in set(results) if result in topics})

    def cancel_requests(self, tokens: Sequence[Token]) -> Mapping[Token, str | None]:
        return self._database.read(store.cancel_requests, tokens)

    async def acancel_requests(self, tokens: Sequence[Token]) -> Mapping[Token, str | None]:
        return await self._database.aread(store.cancel_requests, tokens)

    def write_progress(self, reports: Sequence[Progress]) -> list[bool]:
        return self._database.write_rows(store.write_progress, reports)

    async def awrite_progress(self, reports: Sequence[Progress]) -> list[bool]:
        return await self._database.awrite_rows(store.write_progress, reports)

    def retry(self, task_ids: Sequence[str]) -> Mapping[str, RetryResult]:
        results = self._database.write(store.retry, task_ids, self.now())
        self._tell_of_retrying(results)
        return results

    async def aretry(self, task_ids: Sequence[str]) -> Mapping[str, RetryResult]:
        results = await self._database.awrite(store.retry, task_ids, self.now())
        self._tell_of_retrying(results)
        return results

    def _tell_of_retrying(self, results: Mapping[str, RetryResult]) -> None:
        if RetryResult.QUEUED in results.values():
            self.wakeups.notify_all()  # in whatever queue they are, it is a rare event

    def cancel_selected(self, statement: TaskSelect, reason: str | None = None) -> Mapping[str, CancelResult]:
        results: dict[str, CancelResult] = {}
        checked = store.check_selection(self._database.models, statement)
        for some in portions(self._database.read(store.selected_ids, checked)):
            results |= self._database.write(store.cancel_selected, checked, some, reason, self.now())
            self._tell_of_cancelling(results.values())
        return results

    async def acancel_selected(self, statement: TaskSelect, reason: str | None = None) -> Mapping[str, CancelResult]:
        results: dict[str, CancelResult] = {}
        checked = store.check_selection(self._database.models, statement)
        for some in portions(await self._database.aread(store.selected_ids, checked)):
            results |= await self._database.awrite(store.cancel_selected, checked, some, reason, self.now())
            self._tell_of_cancelling(results.values())
        return results

    def retry_selected(self, statement: TaskSelect) -> Mapping[str, RetryResult]:
        results: dict[str, RetryResult] = {}
        checked = store.check_selection(self._database.models, statement)
        for some in portions(self._database.read(store.selected_ids, checked)):
            results |= self._database.write(store.retry_selected, checked, some, self.now())
            self._tell_of_retrying(results)
        return results

    async def aretry_selected(self, statement: TaskSelect) -> Mapping[str, RetryResult]:
        results: dict[str, RetryResult] = {}
        checked = store.check_selection(self._database.models, statement)
        for some in portions(await self._database.aread(store.selected_ids, checked)):
            results |= await self._database.awrite(store.retry_selected, checked, some, self.now())
            self._tell_of_retrying(results)
        return results
