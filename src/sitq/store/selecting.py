"""Tasks that somebody selects in SQL, to be cancelled or retried: found at once, changed a few at a time.

Each transaction asks again which of its tasks the select still means, and locks them: what has changed
meanwhile is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ..claims import CancelResult, RetryResult
from ..exceptions import InvalidArgumentError
from ..models import Models, StoreModels, TaskMixin, TaskSelect
from .cancelling import cancel_some
from .door import Door
from .retrying import retry_some
from .tables import table_of


def check_selection(models: Models, statement: object) -> TaskSelect:
    """Return the statement if it selects the tasks of these models, and nothing else."""
    task = models.task
    wanted = f"give select({task.__name__}).where(...), of the class that is backend.models.task"
    if not isinstance(statement, Select):
        raise InvalidArgumentError(f"a {type(statement).__name__} selects no tasks: {wanted}")
    selected = statement.column_descriptions
    # The function of a column, such as a count, names the entity too, and stands for many tasks.
    if not selected or any(not is_of(task, each) for each in selected):
        names = ", ".join(str(each["name"]) for each in selected) or "nothing"
        raise InvalidArgumentError(f"the statement selects {names}, which is not just tasks of this queue: {wanted}")
    if statement._distinct or statement._group_by_clauses or statement._having_criteria:
        raise InvalidArgumentError(
            f"tasks that a statement puts together, by distinct, group_by or having, cannot be locked: {wanted}"
        )
    return statement


def is_of(task: type[TaskMixin], selected: Mapping[str, Any]) -> bool:
    """Whether one thing that a statement selects is a task, or a column of one."""
    expression = selected["expr"]
    return selected.get("entity") is task and (expression is task or isinstance(expression, InstrumentedAttribute))


def selected_ids(session: Session, models: Models, statement: TaskSelect) -> list[str]:
    """The ids of the tasks that a statement selects, in its order and within its limit."""
    return list(dict.fromkeys(session.execute(ids_of(models, statement)).scalars()))


def cancel_selected(
    session: Door,
    models: StoreModels,
    statement: TaskSelect,
    task_ids: Sequence[str],
    reason: str | None,
    now: datetime,
) -> dict[str, CancelResult]:
    """Cancel those of the tasks that the statement still selects; as many as one statement may name."""
    still = lock_selected(session, models, statement, task_ids)
    return cancel_some(session, models, still, reason, now) if still else {}


def retry_selected(
    session: Door, models: StoreModels, statement: TaskSelect, task_ids: Sequence[str], now: datetime
) -> dict[str, RetryResult]:
    """Put back those of the tasks that the statement still selects; as many as one statement may name."""
    still = lock_selected(session, models, statement, task_ids)
    return retry_some(session, models, still, now) if still else {}


def lock_selected(session: Door, models: Models, statement: TaskSelect, task_ids: Sequence[str]) -> list[str]:
    """Those of the tasks that the statement still selects, which stay so until the commit."""
    task = table_of(models.task)
    question = ids_of(models, statement.order_by(None).limit(None).offset(None)).where(task.c.id.in_(task_ids))
    rows = session.execute(question.order_by(task.c.id).with_for_update(of=task))
    return list(dict.fromkeys(rows.scalars()))


def ids_of(models: Models, statement: TaskSelect) -> Select[Any]:
    """The same tasks, but only their ids, which are few bytes: they come at once, whatever the statement says."""
    ids = statement.with_only_columns(models.task.id, maintain_column_froms=True)
    return ids.execution_options(stream_results=False, yield_per=None)
