"""New tasks that bear a unique key: it is held while its task is unfinished, and asked for without an exception."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import Insert, Row, Update, bindparam, delete, select, update

from ..claims import TaskRow
from ..exceptions import BackendError, DuplicateTaskError
from ..models import Models, StoreModels, TaskMixin
from .door import Door
from .tables import FALSE, QUEUED, bare_table, portions, table_of

ROUNDS = 20
"""How often a key is asked for whose holder has ended whenever one looks for it."""

CONFLICT = "on_conflict"
"""What a row says beside its columns; ``skip`` unless given."""


def enqueue_unique(session: Door, models: StoreModels, rows: Sequence[TaskRow]) -> dict[str, str]:
    """Insert the tasks whose keys are free; return, for the id of each row, the id of the task that stands.

    Raises ``DuplicateTaskError`` where a row asks for it; then none of the rows has been inserted.
    """
    standing: dict[str, str] = {}
    # In one order everywhere, so that two transactions do not wait for each other.
    waiting = sorted(rows, key=lambda row: str(row["unique_key"]))
    for _ in range(ROUNDS):
        insert_free(session, models, waiting)
        holders = find_holders(session, models, {row["unique_key"] for row in waiting})
        held = [row for row in waiting if row["unique_key"] in holders]
        refuse_duplicates(session, models, held, holders, inserted=standing.values())
        for row in held:
            standing[row["id"]] = settle(session, models, row, holders[row["unique_key"]])
        waiting = [row for row in waiting if row["unique_key"] not in holders]
        if not waiting:
            return standing
    raise BackendError(f"a unique_key was taken and given back {ROUNDS} times while this task asked for it")


def insert_free(session: Door, models: StoreModels, rows: Sequence[TaskRow]) -> None:
    """Insert the rows whose keys nobody holds."""
    columns = [{name: value for name, value in row.items() if name != CONFLICT} for row in rows]
    for keys, alike in groupby(columns, key=tuple):
        session.execute(insert_if_free(models, keys), list(alike))


def find_holders(session: Door, models: Models, keys: Collection[str]) -> dict[str, Row[Any]]:
    """The unfinished task of each key, locked so that it stays so until the commit."""
    task = models.task
    found: dict[str, Row[Any]] = {}
    for some in portions(sorted(keys)):
        statement = select(task.unique_key, task.id, task.status).where(task.unique_key.in_(some)).with_for_update()
        found |= {row.unique_key: row for row in session.execute(statement)}
    return found


def refuse_duplicates(
    session: Door,
    models: Models,
    rows: Sequence[TaskRow],
    holders: dict[str, Row[Any]],
    *,
    inserted: Collection[str],
) -> None:
    """Raise for a row whose key another holds, if it asks for that; what was inserted is taken back first."""
    mine = {row["id"] for row in rows}
    for row in rows:
        holder = holders[row["unique_key"]]
        if holder.id != row["id"] and row.get(CONFLICT) == "raise":
            task = table_of(models.task)
            session.execute(delete(task).where(task.c.id.in_([*mine, *inserted])))
            raise DuplicateTaskError(holder.id)


def settle(session: Door, models: Models, row: TaskRow, holder: Row[Any]) -> str:
    """Return the id of the task that stands; where the row is to replace it and it only waits, it becomes the row."""
    if holder.id != row["id"] and row.get(CONFLICT) == "replace":
        values = {name: value for name, value in row.items() if name not in ("id", CONFLICT)}
        session.execute(replace_statement(models), {"holder": holder.id, **renewed(models.task) | values})
    return str(holder.id)


def renewed(task: type[TaskMixin]) -> dict[str, Any]:
    """The columns of a task that are as if it had just been enqueued, but for those it needs."""
    empty = ("args", "kwargs", "name", "due_at", "expires_at", "timeout", "options", "error_message", "errors")
    zero = ("priority", "retry_count", "max_retries", "crash_count")
    return {
        **dict.fromkeys(empty),
        **dict.fromkeys(zero, 0),
        "queue": "default",
        "scheduled": False,
        "started_at": None,
        "progress": None,
        "progress_note": None,
    }


@lru_cache(maxsize=256)
def insert_if_free(models: StoreModels, keys: tuple[str, ...]) -> Insert:
    """An INSERT of just these columns that does nothing where the key is held."""
    assert models.insert_if_free is not None, "every dialect has one"
    return models.insert_if_free(bare_table(models.task, keys))


@lru_cache
def replace_statement(models: Models) -> Update:
    """A waiting task becomes another, under its own id."""
    task = table_of(models.task)
    names = {"function", "created_at", "unique_key", *renewed(models.task)}
    return (
        update(task)
        .where(task.c.id == bindparam("holder"), task.c.status == QUEUED)
        .values({name: bindparam(name) for name in sorted(names)} | {"isolated": FALSE, "cancel_requested": FALSE})
    )
