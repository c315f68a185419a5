"""The part of the contract that reaches into the life of a task: cancelling it, putting it back, its progress."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from ..claims import CancelResult, Progress, RetryResult, Token
from ..exceptions import NotAvailableError
from ..models import TaskSelect
from .inprocess_interventions import InProcessTasks


class Interventions:
    """What ``BaseBackend`` has of it, with defaults on top of the documented verbs.

    The defaults work in one process. Override each as one atomic step of your storage to serve several.
    """

    @property
    @abstractmethod
    def _in_process(self) -> InProcessTasks:
        """What this process remembers of a storage that knows only the documented verbs."""

    def cancel(self, task_ids: Sequence[str], reason: str | None = None) -> Mapping[str, CancelResult]:
        """End queued tasks as cancelled, mark running ones for their workers, and say what became of each.

        A queued task gets a result with the reason, and who waits for it is woken. A running one that is put
        back later, for whatever reason, is cancelled instead of being claimed again.
        """
        return self._in_process.cancel(task_ids, reason)

    def cancel_requests(self, tokens: Sequence[Token]) -> Mapping[Token, str | None]:
        """Return which of these claims hold tasks that are to be cancelled, and the reasons given."""
        return self._in_process.cancel_requests(tokens)

    def write_progress(self, reports: Sequence[Progress]) -> list[bool]:
        """Keep how far running tasks are, and say of each whether the claim still held; if not, nothing is kept."""
        return self._in_process.write_progress(reports)

    def retry(self, task_ids: Sequence[str]) -> Mapping[str, RetryResult]:
        """Put ended tasks back as when they were enqueued, and say what became of each.

        They are due at once and have no result; ``errors`` keeps what went wrong before. A task that was
        enqueued with a unique key holds it again; if another holds it by now, the task stays ended.
        """
        return self._in_process.retry(task_ids)

    def cancel_selected(self, statement: TaskSelect, reason: str | None = None) -> Mapping[str, CancelResult]:
        """``cancel`` the tasks that a statement selects, and say what became of each.

        Raises ``NotAvailableError`` where the storage cannot be asked in SQL.
        """
        raise self._not_in_sql()

    def retry_selected(self, statement: TaskSelect) -> Mapping[str, RetryResult]:
        """``retry`` the tasks that a statement selects, and say what became of each.

        Raises ``NotAvailableError`` where the storage cannot be asked in SQL.
        """
        raise self._not_in_sql()

    def _not_in_sql(self) -> NotAvailableError:
        return NotAvailableError(f"{type(self).__name__} cannot be asked in SQL: give the ids of the tasks")

    # The async twins.

    async def acancel(self, task_ids: Sequence[str], reason: str | None = None) -> Mapping[str, CancelResult]:
        """See ``cancel``."""
        return await asyncio.to_thread(self.cancel, task_ids, reason)

    async def acancel_requests(self, tokens: Sequence[Token]) -> Mapping[Token, str | None]:
        """See ``cancel_requests``."""
        return await asyncio.to_thread(self.cancel_requests, tokens)

    async def awrite_progress(self, reports: Sequence[Progress]) -> list[bool]:
        """See ``write_progress``."""
        return await asyncio.to_thread(self.write_progress, reports)

    async def aretry(self, task_ids: Sequence[str]) -> Mapping[str, RetryResult]:
        """See ``retry``."""
        return await asyncio.to_thread(self.retry, task_ids)

    async def acancel_selected(self, statement: TaskSelect, reason: str | None = None) -> Mapping[str, CancelResult]:
        """See ``cancel_selected``."""
        return await asyncio.to_thread(self.cancel_selected, statement, reason)

    async def aretry_selected(self, statement: TaskSelect) -> Mapping[str, RetryResult]:
        """See ``retry_selected``."""
        return await asyncio.to_thread(self.retry_selected, statement)
