"""Rules of sitq, each taken away for a while: what is to prove that they hold must then fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from sqlalchemy import ColumnElement, Table, bindparam, func, update

from sitq.backends import sqlite_connections
from sitq.heartbeat import Heartbeat
from sitq.rounds import Rounds
from sitq.store import completing, finishing, leasing, progressing
from sitq.store.tables import QUEUED, RUNNING, table_of

FENCED = (
    (completing, "complete_statement"),
    (completing, "complete_together_statement"),
    (finishing, "end_statement"),
    (progressing, "progress_statement"),
    (leasing, "extend_statement"),
)


@contextlib.contextmanager
def without_token_check() -> Iterator[None]:
    """A worker's writes hit whatever claim of the task there is."""

    def holds(task: Table, given: Mapping[str, ColumnElement[Any]] | None = None) -> ColumnElement[bool]:
        return (task.c.id == (given or {"token_id": bindparam("token_id")})["token_id"]) & (task.c.status == RUNNING)

    def extend_statement(models: Any) -> Any:
        task = table_of(models.task)
        running = func.coalesce(task.c.status, QUEUED) == RUNNING
        named = task.c.id.in_(bindparam("ids", expanding=True))
        return update(task).where(named, running).values(lease_until=bindparam("until"))

    with contextlib.ExitStack() as stack:
        for module in (completing, finishing, progressing):
            stack.enter_context(mock.patch.object(module, "holds", holds))
        for module, name in FENCED:
            statement = getattr(module, name)
            stack.callback(statement.cache_clear)
            statement.cache_clear()
        stack.enter_context(mock.patch.object(leasing, "extend_statement", extend_statement))
        yield


@contextlib.contextmanager
def without_heartbeat() -> Iterator[None]:
    """Workers do not extend their leases."""
    with mock.patch.object(Heartbeat, "_extend", return_value=None):
        yield


@contextlib.contextmanager
def with_deferred_begin() -> Iterator[None]:
    """A transaction on SQLite begins as one that reads, and asks for the write lock when it is to write."""

    try_once = sqlite_connections.try_once

    def try_deferred(driver: Any, statement: str, deadline: float) -> bool:
        return try_once(driver, "BEGIN" if statement == "BEGIN IMMEDIATE" else statement, deadline)

    with mock.patch.object(sqlite_connections, "try_once", try_deferred):
        yield


@contextlib.contextmanager
def without_second_look() -> Iterator[None]:
    """A worker begins what it claimed, however long the answer took to reach it."""

    async def drop_none(self: Rounds, asked: float) -> None:
        pass

    with mock.patch.object(Rounds, "_drop_lapsed", drop_none):
        yield
