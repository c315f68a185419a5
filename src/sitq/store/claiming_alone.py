"""The claim of an idle worker where a statement can commit itself: one way to the server instead of three."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Executable, Row, select

from ..claims import Claim, ClaimRequest, IsolatedTasks, why_unwanted
from ..models import Models, StoreModels
from .claiming import claim_statement, lease_values, order_of_claims, to_claim
from .door import Door
from .tables import is_scheduled


class LoneClaim(NamedTuple):
    """What one statement has leased, and what is left to be done in a transaction."""

    claims: list[Claim]
    unwanted: list[Row[Any]]
    """Leased, but not to run any more, and so to be ended."""

    look_closer: bool
    """Whether nothing was leased, but something waits that ``claim`` may give."""


def is_claimed_alone(models: StoreModels, request: ClaimRequest) -> bool:
    """Whether the claim can begin with one statement for all that is due."""
    return models.claims_at_once and len(request.queues) == 1 and request.isolated is not IsolatedTasks.FIRST


def claim_alone(
    session: Door, models: StoreModels, requests: Sequence[tuple[ClaimRequest, datetime]]
) -> list[LoneClaim]:
    """Lease due tasks for each request, which comes with the time.

    Of the statements for a request one writes, so that each may commit itself.
    """
    return [claim_one(session, models, request, now) for request, now in requests]


def claim_one(session: Door, models: StoreModels, request: ClaimRequest, now: datetime) -> LoneClaim:
    """Lease due tasks for one request; where there are none, look whether there may be others."""
    asked = {"in_queue": request.queues[0], "limit": request.limit, **lease_values(request, now)}
    rows = session.execute(claim_statement(models, True), asked).all()
    if not rows:
        earliest: datetime | None = session.execute(earliest_time(models)).scalar()
        return LoneClaim([], [], earliest is not None and earliest <= now)
    unwanted = [row for row in rows if why_unwanted(row[-1], row[-2], now) is not None]
    wanted = [row for row in rows if row not in unwanted] if unwanted else rows
    claims = [to_claim(row, request.worker_id, row.claim_count) for row in wanted]
    return LoneClaim(sorted(claims, key=order_of_claims), unwanted, not claims)


@lru_cache
def earliest_time(models: Models) -> Executable:
    """The time of the first of the future tasks, and of those that must run alone, which wait among them.

    It is compared with the present outside: PostgreSQL would read all of the index to find none below a bound.
    """
    task = models.task
    return select(task.due_at).where(is_scheduled(task)).order_by(task.due_at).limit(1)
