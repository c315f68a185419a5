"""The table behind a mapped class, and the parts of statements that several files share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, Select, Table, TableClause, bindparam, case, column, func, literal_column, table
from sqlalchemy.orm import MappedAsDataclass

from ..columns import UTCDateTime
from ..models import StoreModels, TaskMixin, TaskStatus

# Literals, never parameters: a partial index is used only where the statement repeats its predicate.
QUEUED: ColumnElement[Any] = literal_column(f"'{TaskStatus.QUEUED.value}'")
RUNNING: ColumnElement[Any] = literal_column(f"'{TaskStatus.RUNNING.value}'")
COMPLETED: ColumnElement[Any] = literal_column(f"'{TaskStatus.COMPLETED.value}'")
TRUE: ColumnElement[Any] = literal_column("TRUE")
FALSE: ColumnElement[Any] = literal_column("FALSE")

ROWS_A_STATEMENT = 500
"""How many ids one ``IN`` holds; databases limit the parameters of a statement."""

T = TypeVar("T")


def portions(of: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as one ``IN`` holds."""
    return (of[start : start + ROWS_A_STATEMENT] for start in range(0, len(of), ROWS_A_STATEMENT))


def table_of(model: type[MappedAsDataclass]) -> Table:
    """The table that a model is mapped to."""
    return cast(Table, model.__table__)  # type: ignore[attr-defined]  # a mixin's subclass is always mapped


def index_of(models: StoreModels, name: str) -> str:
    """The full name of an index of the tasks."""
    return f"ix_{table_of(models.task).name}_{name}"


def using_index(models: StoreModels, question: Select[Any], name: str) -> Select[Any]:
    """The question, to be answered from an index of the tasks, where the database must be told."""
    if models.index_hint is None:
        return question
    return question.with_hint(models.task, models.index_hint.format(index_of(models, name)))


def bare_table(model: type[MappedAsDataclass], keys: tuple[str, ...]) -> TableClause:
    """The table with just these columns."""
    mapped = table_of(model)
    columns = [column(key, mapped.c[key].type) for key in keys]
    return table(mapped.name, *columns, schema=mapped.schema)


def asked_at() -> ColumnElement[datetime]:
    """The moment of the question, by the name ``now``."""
    return bindparam("now", type_=UTCDateTime())


def count_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """In how many rows something holds."""
    return func.count(case((condition, 1)))


def is_due(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The tasks that wait for a worker, in the words of the claim's index."""
    return (task.status == QUEUED) & (task.scheduled == FALSE)


def is_scheduled(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The tasks that wait for their time, in the words of its index."""
    return (task.status == QUEUED) & (task.scheduled == TRUE)


def is_timed(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The waiting tasks that have a time or were tried before, in the words of their index."""
    return (task.status == QUEUED) & (task.due_at.is_not(None) | (task.retry_count > literal_column("0")))


def is_over(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The tasks that neither wait nor run, in the words of their index; and what is none of sitq's by its status."""
    return task.completed_at.is_not(None) | task.status.is_(None) | task.status.not_in([QUEUED, RUNNING])


def is_running(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The tasks in a worker's hands, in the words of the leases' index."""
    return task.status == RUNNING
