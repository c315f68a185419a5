"""The rows of results: written in place of one that a task may have, and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Insert, delete, literal, select

from ..models import Models, StoreModels
from ..wakeups import RESULTS
from .announcing import announce
from .compiled import execute_rows
from .door import Door
from .inserting import insert_in_bulk
from .tables import bare_table, portions, table_of

RESULT_COLUMNS = ("task_id", "value", "is_error", "error_message", "completed_at", "error_type", "traceback")


def write_results(session: Door, models: StoreModels, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of results, and tell who waits for one."""
    if len(rows) == 1:
        execute_rows(session, telling_statement(models), rows)
    elif rows:
        write_many(session, models, rows)
        announce(session, models, (RESULTS,))


def write_many(session: Door, models: StoreModels, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of results; of several for a task the last one counts."""
    if models.rows_as_table is None:
        values = map(itemgetter(*RESULT_COLUMNS), rows)
        if not insert_in_bulk(session, models, models.result, RESULT_COLUMNS, values, replacing=True):
            execute_rows(session, result_statement(models), rows)
    else:
        latest = {row["task_id"]: row for row in rows}
        execute_rows(session, results_statement(models), [models.rows_as_table.parameters([*latest.values()])])


def delete_results(session: Door, models: Models, task_ids: Sequence[str]) -> None:
    """Remove the results of tasks that are to have another, or none."""
    result = table_of(models.result)
    for some in portions(task_ids):
        session.execute(delete(result).where(result.c.task_id.in_(some)))


@lru_cache
def result_statement(models: StoreModels) -> Insert:
    """A result, in place of one that the task may have."""
    assert models.insert_or_replace is not None, "every dialect has one"
    return models.insert_or_replace(bare_table(models.result, RESULT_COLUMNS), "task_id")


@lru_cache
def results_statement(models: StoreModels) -> Insert:
    """The results of many tasks, in one statement."""
    assert models.rows_as_table is not None, "write_many has looked"
    result = table_of(models.result)
    given = models.rows_as_table.clause({name: result.c[name].type for name in RESULT_COLUMNS})
    return result_statement(models).from_select(RESULT_COLUMNS, select(*given.c))


@lru_cache
def telling_statement(models: StoreModels) -> Insert:
    """The same, and with news of it: a statement more would cost another way to the server."""
    statement = result_statement(models)
    return statement if models.news is None else statement.returning(models.news(literal(RESULTS)))
