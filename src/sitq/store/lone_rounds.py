"""A worker's round where a statement can commit itself: one way to the server instead of four."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Select, select, true

from ..claims import Claim, ClaimRequest, IsolatedTasks, Outcome, why_unwanted
from ..models import Models, StoreModels
from .claiming import claim_statement, lease_values, order_of_claims, to_claim
from .compiled import fetch_rows
from .completing import complete_together_statement, parted, together_values
from .door import Door
from .tables import is_scheduled


class LoneRound(NamedTuple):
    """What one statement has written and leased, and what is left to be done in a transaction."""

    changed: int
    """How many outcomes were written."""

    claims: list[Claim]
    unwanted: list[Sequence[Any]]
    """Leased, but not to run any more, and so to be ended."""

    look_closer: bool
    """Whether nothing was leased, but something waits that ``claim`` may give."""


def is_round_alone(models: StoreModels, outcomes: Sequence[Outcome], request: ClaimRequest) -> bool:
    """Whether a round can begin with one statement, for all that has ended and all that is due."""
    one_claim = models.claims_at_once and len(request.queues) == 1 and request.isolated is not IsolatedTasks.FIRST
    return one_claim and not parted(models, outcomes)[1]


def rounds_alone(
    session: Door, models: StoreModels, rounds: Sequence[tuple[Sequence[Outcome], ClaimRequest, datetime]]
) -> list[LoneRound]:
    """Write outcomes and lease due tasks for each round, which comes with the time.

    Of the statements for a round one writes, so that each may commit itself.
    """
    return [round_alone(session, models, *each) for each in rounds]


def round_alone(
    session: Door, models: StoreModels, outcomes: Sequence[Outcome], request: ClaimRequest, now: datetime
) -> LoneRound:
    """One of them; where no task is due, look whether there may be others.

    With claims in hand nothing more is asked, which might fail: they are leased by now.
    """
    changed, rows = change(session, models, outcomes, request, now)
    if not rows:
        earliest: list[Sequence[datetime]] = fetch_rows(session, earliest_time(models), {})
        return LoneRound(changed, [], [], bool(earliest) and earliest[0][0] <= now)
    unwanted = [row for row in rows if why_unwanted(row[-1], row[-2], now) is not None]
    wanted = [row for row in rows if row not in unwanted] if unwanted else rows
    claims = [to_claim(row, request.worker_id, row[1]) for row in wanted]
    return LoneRound(changed, sorted(claims, key=order_of_claims), unwanted, not claims)


def change(
    session: Door, models: StoreModels, outcomes: Sequence[Outcome], request: ClaimRequest, now: datetime
) -> tuple[int, Sequence[Sequence[Any]]]:
    """Run the statement that writes; return how many outcomes changed their task, and the ``claimed_columns``."""
    asked = {"in_queue": request.queues[0], "limit": request.limit, **lease_values(request, now)}
    if not outcomes:
        return 0, fetch_rows(session, claim_statement(models, True), asked)
    rows = fetch_rows(session, round_statement(models), asked | together_values(models, outcomes))
    return rows[0][0], [row[1:] for row in rows if row[1] is not None]


@lru_cache
def round_statement(models: StoreModels) -> Select[Any]:
    """Completions and a claim at once: the number of the former, with each row of the latter or with none."""
    ended = complete_together_statement(models).cte("ended")
    claimed = claim_statement(models, True).cte("claimed")
    return select(ended.c.changed, *claimed.c).select_from(ended.outerjoin(claimed, true()))


@lru_cache
def earliest_time(models: Models) -> Select[Any]:
    """The time of the first of the future tasks, and of those that must run alone, which wait among them.

    It is compared with the present outside: PostgreSQL would read all of the index to find none below a bound.
    """
    task = models.task
    return select(task.due_at).where(is_scheduled(task), task.due_at.is_not(None)).order_by(task.due_at).limit(1)
