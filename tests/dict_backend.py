"""The backend of the documents: a subclass with only the documented verbs, on two dicts."""

from __future__ import annotations

import dataclasses
from typing import Any

from sitq.backends.base import BaseBackend
from sitq.models import Result, Task


class DictBackend(BaseBackend):
    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config = config or {}
        self.tasks: dict[str, Task] = {}
        self.results: dict[str, Result] = {}
        self.initialize()

    def store_task(self, task: Task) -> None:
        self.tasks[task.id] = task

    def get_task(self, task_id: str) -> Task | None:
        return self.tasks.get(task_id)

    def update_task_status(self, task_id: str, status: str) -> None:
        self.tasks[task_id].status = status

    def store_result(self, task_id: str, result: Result) -> None:
        self.results[task_id] = result

    def get_result(self, task_id: str) -> Result | None:
        return self.results.get(task_id)


class CopyingBackend(DictBackend):
    """Gives copies, as a storage does that keeps bytes rather than objects."""

    def store_task(self, task: Task) -> None:
        super().store_task(dataclasses.replace(task))

    def get_task(self, task_id: str) -> Task | None:
        task = super().get_task(task_id)
        return task and dataclasses.replace(task)

    def store_result(self, task_id: str, result: Result) -> None:
        super().store_result(task_id, dataclasses.replace(result))

    def get_result(self, task_id: str) -> Result | None:
        result = super().get_result(task_id)
        return result and dataclasses.replace(result)


class ListingBackend(CopyingBackend):
    """Knows its tasks by itself."""

    def list_all_tasks(self) -> list[str]:
        return sorted(self.tasks)
