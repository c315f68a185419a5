"""Claims end: each ending is fenced by its token, and its result is stored beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import compress
from typing import Any

from sqlalchemy import Update, bindparam, case, func, update

from ..claims import Claim, ClaimRequest, Outcome, Progress
from ..models import Models, StoreModels, TaskStatus
from .claiming import claim
from .completing import complete_statement, complete_together, completion_values, parted
from .door import Door
from .fencing import count_changed, holds, statuses_under, token_values
from .progressing import write_progress
from .results import write_results
from .tables import FALSE, table_of


def finish_and_claim(
    session: Door, models: StoreModels, outcomes: Sequence[Outcome], request: ClaimRequest | None, now: datetime
) -> tuple[list[bool], list[Claim]]:
    """A worker's round in one transaction."""
    held = finish(session, models, outcomes) if outcomes else []
    return held, claim(session, models, request, now) if request else []


def finish(session: Door, models: StoreModels, outcomes: Sequence[Outcome]) -> list[bool]:
    """Write how claims ended; say of each whether the claim held. The same outcome twice is the same as once."""
    together, apart = parted(models, outcomes)
    changed = complete_together(session, models, together) + end_claims(session, models, apart)
    held = [True] * len(outcomes) if changed == len(outcomes) else were_ours(session, models, outcomes)
    if apart:
        stored = {outcome.token for outcome in together}
        ours = compress(outcomes, held)
        store_results(session, models, [outcome for outcome in ours if outcome.token not in stored])
    return held


def complete(session: Door, models: StoreModels, outcome: Outcome, progress: Progress | None) -> bool:
    """Write a completion in the function's own transaction, unless the claim no longer holds; say whether it did.

    Unlike ``finish`` it takes no earlier try for its own: that would have committed the function's effects.
    """
    if progress is not None:
        write_progress(session, models, [progress])  # before the ending, which would fence it out
    held = end_claims(session, models, [outcome]) == 1
    if held:
        store_results(session, models, [outcome])
    return held


def end_claims(session: Door, models: StoreModels, outcomes: Sequence[Outcome]) -> int:
    """Write the endings whose claims still hold; return how many."""
    completed = [completion_values(each) for each in outcomes if each.status is TaskStatus.COMPLETED]
    others = [ending_values(each) for each in outcomes if each.status is not TaskStatus.COMPLETED]
    changed = count_changed(session, complete_statement(models), completed)
    return changed + count_changed(session, end_statement(models), others)


def were_ours(session: Door, models: Models, outcomes: Sequence[Outcome]) -> list[bool]:
    """Whether each outcome is what its task now bears: written just now, or by an earlier try of the same claim."""
    statuses = statuses_under(session, models, [outcome.token for outcome in outcomes])
    return [statuses.get(outcome.token) is outcome.status for outcome in outcomes]


def store_results(session: Door, models: StoreModels, outcomes: Sequence[Outcome]) -> None:
    """Store a result for each outcome that ends its task, in place of one it may have, and tell of it."""
    write_results(session, models, [result_values(each) for each in outcomes if each.status.ended])


def ending_values(outcome: Outcome) -> dict[str, Any]:
    """What ``end_statement`` asks for; a column whose value is ``None`` there stays as it is."""
    retry = outcome.status is TaskStatus.QUEUED
    return token_values(outcome.token) | {
        "to": outcome.status.value,
        "at": None if retry else outcome.at,
        "due": outcome.due_at,
        "later": outcome.due_at is not None and outcome.due_at > outcome.at,
        "message": outcome.error_message,
        "history": outcome.errors,
        "retries": outcome.retry_count,
    }


def result_values(outcome: Outcome) -> dict[str, Any]:
    """The result's row."""
    return {
        "task_id": outcome.token.task_id,
        "value": outcome.value,
        "is_error": outcome.status is not TaskStatus.COMPLETED,
        "error_message": outcome.error_message,
        "completed_at": outcome.at,
        "error_type": outcome.error_type,
        "traceback": outcome.traceback,
    }


@lru_cache
def end_statement(models: Models) -> Update:
    """Every other ending: failed, cancelled, or queued again."""
    task = table_of(models.task)
    again = bindparam("to") == TaskStatus.QUEUED.value
    return (
        update(task)
        .where(holds(task))
        .values(
            status=bindparam("to"),
            completed_at=bindparam("at"),
            lease_until=None,
            unique_key=case((again, task.c.unique_key), else_=None),
            due_at=func.coalesce(bindparam("due"), task.c.due_at),
            scheduled=bindparam("later"),
            isolated=FALSE,
            error_message=bindparam("message"),
            errors=func.coalesce(bindparam("history"), task.c.errors),
            retry_count=func.coalesce(bindparam("retries"), task.c.retry_count),
        )
    )
