"""New tasks become rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import groupby

from sqlalchemy import Insert, Text, column, insert, literal

from ..claims import TaskRow
from ..models import StoreModels, TaskMixin
from ..wakeups import queue_topic
from .announcing import announce
from .compiled import execute_rows
from .door import Door
from .inserting import insert_in_bulk
from .tables import bare_table
from .unique import enqueue_unique

MANY = 20
"""From so many rows on a way to insert in bulk is the faster one."""


def with_scheduled(rows: Sequence[TaskRow], clock: Callable[[], datetime]) -> Sequence[TaskRow]:
    """The rows, marked where they are due later than now: the claim passes over them until then."""
    if not [row for row in rows if row.get("due_at") is not None]:
        return rows
    now = clock()
    return [row if row.get("due_at") is None else row | {"scheduled": row["due_at"] > now} for row in rows]


def enqueue(session: Door, models: StoreModels, rows: Sequence[TaskRow]) -> list[str]:
    """Insert new tasks; return the ids of those that stand, in the same order: where a unique key is held, its holder.

    Raises ``DuplicateTaskError`` for a held key whose row says so.
    """
    due_in = due_topics(rows) if models.news is not None else set()
    keyed = [row for row in rows if row.get("unique_key") is not None]
    if keyed:
        standing = enqueue_unique(session, models, keyed)
        insert_all(session, models, [row for row in rows if row["id"] not in standing])
        announce(session, models, due_in)
        return [standing.get(str(row["id"]), str(row["id"])) for row in rows]
    if due_in and len(rows) == 1:
        execute_rows(session, telling_statement(models, tuple(rows[0])), rows)
    else:
        insert_all(session, models, rows)
        announce(session, models, due_in)
    return [row["id"] for row in rows]


def due_topics(rows: Sequence[TaskRow]) -> set[str]:
    """The topics of the queues in which these rows are due."""
    return {queue_topic(queue) for queue in {row.get("queue", "default") for row in rows if not row.get("scheduled")}}


def is_one_statement(rows: Sequence[TaskRow]) -> bool:
    """Whether ``enqueue`` sends one statement for these rows, wherever they are to be stored."""
    return len(rows) == 1 and rows[0].get("unique_key") is None


def insert_all(session: Door, models: StoreModels, rows: Sequence[TaskRow]) -> None:
    """Insert rows; those that have the same columns go together."""
    if len(rows) == 1:
        insert_alike(session, models, tuple(rows[0]), rows)
        return
    for keys, alike in groupby(rows, key=tuple):
        insert_alike(session, models, keys, list(alike))


def insert_alike(session: Door, models: StoreModels, keys: tuple[str, ...], rows: Sequence[TaskRow]) -> None:
    """Insert rows that have the same columns, the way that is fastest on this database."""
    if len(rows) >= MANY and insert_in_bulk(session, models, models.task, keys, (tuple(row.values()) for row in rows)):
        return
    execute_rows(session, insert_statement(models.task, keys), rows)


@lru_cache(maxsize=256)
def insert_statement(task: type[TaskMixin], keys: tuple[str, ...]) -> Insert:
    """An INSERT of just these columns: a statement that is kept is compiled once.

    It names a bare table, since the mapped one would add the Python-side default of every column left
    out; the server's defaults are the same.
    """
    return insert(bare_table(task, keys))


@lru_cache(maxsize=256)
def telling_statement(models: StoreModels, keys: tuple[str, ...]) -> Insert:
    """The INSERT of one due task that tells of it too: a statement more would cost another way to the server."""
    assert models.news is not None, "enqueue has looked"
    topic = literal(queue_topic("")).concat(column("queue", Text))
    return insert_statement(models.task, keys).returning(models.news(topic))
