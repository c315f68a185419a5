"""Completions: the ending of most tasks. Where the database lets rows be a table, many of them are one statement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, Update, bindparam, func, literal, null, select, update

from ..claims import Outcome
from ..models import Models, StoreModels, TaskStatus
from ..wakeups import RESULTS
from .compiled import execute_rows
from .door import Door
from .fencing import TOKEN_COLUMNS, holds, token_values
from .results import result_statement
from .tables import COMPLETED, FALSE, table_of

BYTES_TOGETHER = 4_000_000
"""Return values that take more go one by one: together they are a text of twice as many bytes."""


def parted(models: StoreModels, outcomes: Sequence[Outcome]) -> tuple[list[Outcome], Sequence[Outcome]]:
    """The completions that are to go in one statement, and what has to go otherwise."""
    if models.rows_as_table is None:
        return [], outcomes
    completed = [outcome for outcome in outcomes if outcome.status is TaskStatus.COMPLETED]
    if sum(len(outcome.value or b"") for outcome in completed) > BYTES_TOGETHER:
        return [], outcomes
    return completed, [outcome for outcome in outcomes if outcome.status is not TaskStatus.COMPLETED]


def complete_together(session: Door, models: StoreModels, outcomes: Sequence[Outcome]) -> int:
    """Complete the tasks whose claims still hold, store their results and tell of them; return how many."""
    if not outcomes:
        return 0
    row = execute_rows(session, complete_together_statement(models), [together_values(models, outcomes)]).one()
    return int(row[0])


def together_values(models: StoreModels, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What ``complete_together_statement`` asks for."""
    assert models.rows_as_table is not None, "parted has looked"
    latest = {outcome.token: completion_values(outcome) | {"value": outcome.value} for outcome in outcomes}
    return models.rows_as_table.parameters([*latest.values()])


def completion_values(outcome: Outcome) -> dict[str, Any]:
    """What ``complete_statement`` asks for."""
    return token_values(outcome.token) | {"at": outcome.at}


@lru_cache
def complete_statement(models: Models) -> Update:
    """One task, whose result is written apart."""
    task = table_of(models.task)
    return completion(task, at=bindparam("at")).where(holds(task))


@lru_cache
def complete_together_statement(models: StoreModels) -> Select[Any]:
    """Many tasks with their results. It gives how many held."""
    assert models.rows_as_table is not None, "parted has looked"
    task, result = table_of(models.task), table_of(models.result)
    columns = {name: task.c[of].type for name, of in TOKEN_COLUMNS.items()}
    columns |= {"at": task.c.completed_at.type, "value": result.c.value.type}
    given = select(models.rows_as_table.clause(columns)).cte("given")
    token = {name: given.c[name] for name in TOKEN_COLUMNS}
    # As an array, the ids are looked up in the primary key, whatever the plan.
    held = holds(task, token) & (task.c.id == func.any(func.array(select(given.c.token_id).scalar_subquery())))
    ended = completion(task, at=given.c["at"]).where(held)
    done = ended.returning(task.c.id, given.c.value, given.c["at"]).cte("done")
    rows = select(done.c.id, done.c.value, FALSE, done.c["at"])
    stored = result_statement(models).from_select(["task_id", "value", "is_error", "completed_at"], rows).cte("stored")
    told = [] if models.news is None else [models.news(literal(RESULTS))]
    return select(func.count().label("changed"), *told).select_from(done).add_cte(stored)


def completion(task: Table, *, at: ColumnElement[Any]) -> Update:
    """Tasks become completed."""
    return update(task).values(
        status=COMPLETED, completed_at=at, lease_until=null(), unique_key=null(), error_message=null()
    )
