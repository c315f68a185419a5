"""The fence around every write of a worker: the claim's token in the WHERE, and a look at the row count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, Update, bindparam, func, select

from ..claims import Token
from ..models import Models, TaskStatus
from .compiled import execute_rows
from .door import Door
from .tables import QUEUED, RUNNING, portions

TOKEN_COLUMNS = {"token_id": "id", "token_worker": "worker_id", "token_claim": "claim_count"}
"""The parameters of ``holds``, and the columns that they are compared with."""


def holds(task: Table, given: Mapping[str, ColumnElement[Any]] | None = None) -> ColumnElement[bool]:
    """The task that a token of ``token_values`` is for, as long as its claim holds.

    The status is compared in other words than the index of the leases has: until the next VACUUM that is full of the
    entries of tasks that have ended, and a plan that took it instead of the primary key would read them all.
    """
    token = given or {name: bindparam(name) for name in TOKEN_COLUMNS}
    return (
        (task.c.id == token["token_id"])
        & (func.coalesce(task.c.status, QUEUED) == RUNNING)
        & (task.c.worker_id == token["token_worker"])
        & (task.c.claim_count == token["token_claim"])
    )


def token_values(token: Token) -> dict[str, Any]:
    """What ``holds`` asks for."""
    return {"token_id": token.task_id, "token_worker": token.worker_id, "token_claim": token.claim_count}


def count_changed(session: Door, statement: Update, values: list[dict[str, Any]]) -> int:
    """Run a fenced UPDATE once for each token; return how many rows it changed."""
    if not values:
        return 0
    return execute_rows(session, statement, values).rowcount


def statuses_under(session: Door, models: Models, tokens: Sequence[Token]) -> dict[Token, TaskStatus]:
    """The status of each task whose latest claim is the token's; tokens of an earlier claim are left out."""
    task = models.task
    found: dict[Token, TaskStatus] = {}
    for ids in portions([token.task_id for token in tokens]):
        rows = session.execute(select(task.id, task.worker_id, task.claim_count, task.status).where(task.id.in_(ids)))
        found |= {Token(row.id, row.worker_id, row.claim_count): TaskStatus.read(row.status) for row in rows}
    return {token: found[token] for token in tokens if token in found}
