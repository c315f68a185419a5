"""Leases are extended by their worker; running tasks are put back when it has died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import CursorResult, Update, bindparam, func, tuple_, update

from ..claims import Token
from ..models import Models, TaskStatus
from .door import Door
from .fencing import statuses_under
from .tables import QUEUED, RUNNING, portions, table_of


def extend(session: Door, models: Models, tokens: Sequence[Token], until: datetime) -> list[bool]:
    """Let leases end at ``until``; say of each whether the claim still held."""
    changed = sum(extend_some(session, models, some, until) for some in of_one_worker(tokens))
    if changed == len(tokens):
        return [True] * len(tokens)
    statuses = statuses_under(session, models, tokens)
    return [statuses.get(token) is TaskStatus.RUNNING for token in tokens]


def of_one_worker(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Part tokens by their worker, and into as many as one statement may name."""
    for worker_id in dict.fromkeys(token.worker_id for token in tokens):
        yield from portions([token for token in tokens if token.worker_id == worker_id])


def extend_some(session: Door, models: Models, tokens: Sequence[Token], until: datetime) -> int:
    """Extend claims of one worker by one statement; return how many held."""
    values = {
        "worker": tokens[0].worker_id,
        "ids": [token.task_id for token in tokens],
        "claims": [(token.task_id, token.claim_count) for token in tokens],
        "until": until,
    }
    return cast("CursorResult[Any]", session.execute(extend_statement(models), values)).rowcount


@lru_cache
def extend_statement(models: Models) -> Update:
    """A later end for the leases that still hold. The ids alone find the rows, the claims' numbers are the fence."""
    task = table_of(models.task)
    return (
        update(task)
        .where(
            task.c.id.in_(bindparam("ids", expanding=True)),
            # An expression, since SQLite would go through the index of all that is running instead of the ids.
            func.coalesce(task.c.status, QUEUED) == RUNNING,
            task.c.worker_id == bindparam("worker"),
            tuple_(task.c.id, task.c.claim_count).in_(bindparam("claims", expanding=True)),
        )
        .values(lease_until=bindparam("until"))
    )
