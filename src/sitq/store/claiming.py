"""Due tasks become a worker's: one index seek a queue.

Future tasks whose time has come are to be seen first. Since there are seldom any, the claim looks for them on its way,
and finds nothing where there is one; then they are released, and the claim is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Executable, Integer, Select, Update, bindparam, case, exists, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from ..claims import Claim, ClaimRequest, IsolatedTasks
from ..models import Models, StoreModels, TaskStatus
from .cancelling import only_wanted
from .door import Door
from .scheduling import any_scheduled, release_scheduled, time_has_come
from .tables import FALSE, ROWS_A_STATEMENT, TRUE, is_due, is_scheduled, table_of, using_index

SWEEPS = 10
"""How often one claim sweeps tasks away that are not to run any more, before it leaves the rest to the next."""


class Asked(NamedTuple):
    """What a claim asks for, and where.

    Attributes:
        session: where its statements run.
        models: the mapped classes.
        request: the worker's.
        now: the time by the clock that leases follow.
        looking: whether it is to find nothing where there are future tasks whose time has come.
    """

    session: Door
    models: StoreModels
    request: ClaimRequest
    now: datetime
    looking: bool


def claim(session: Door, models: StoreModels, request: ClaimRequest, now: datetime) -> list[Claim]:
    """Lease due tasks to the worker: queues in the order given, in each the highest priority and oldest id first."""
    if request.isolated is IsolatedTasks.FIRST and (alone := claim_isolated(session, models, request, now)):
        return alone
    claims = claim_due(Asked(session, models, request, now, looking=True))
    if not claims and time_has_come(session, models, now):
        release_scheduled(session, models, now)
        claims = claim_due(Asked(session, models, request, now, looking=False))
    if not claims and request.isolated is IsolatedTasks.LAST:
        return claim_isolated(session, models, request, now)
    return claims


def claim_due(asked: Asked) -> list[Claim]:
    """Lease due tasks."""
    claims: list[Claim] = []
    for queue in asked.request.queues:
        if len(claims) < asked.request.limit:
            claims += claim_from(asked, queue, asked.request.limit - len(claims))
    return claims


def claim_from(asked: Asked, queue: str, limit: int) -> list[Claim]:
    """Lease at most ``limit`` tasks of one queue; those that are not to run any more end on the way."""
    claims: list[Claim] = []
    for _ in range(SWEEPS):
        leased, all_wanted = lease_some(asked, queue, limit - len(claims))
        claims += leased
        if all_wanted or len(claims) == limit:
            break
        sweep(asked.session, asked.models, queue, asked.now)
    return claims


def lease_some(asked: Asked, queue: str, limit: int) -> tuple[list[Claim], bool]:
    """Lease those of the first due tasks that are still to run, and say whether all are."""
    session, models, request, now, looking = asked
    values = lease_values(request, now)
    if models.claims_at_once:
        rows = session.execute(claim_statement(models, looking), {"in_queue": queue, "limit": limit, **values}).all()
        wanted = only_wanted(session, models, rows, now)
        claims = sorted((to_claim(row, request.worker_id, row.claim_count) for row in wanted), key=order_of_claims)
        return claims, len(wanted) == len(rows)
    due = {"in_queue": queue, "limit": limit, "now": now}
    rows = session.execute(due_tasks(models, looking), due).all()
    wanted = only_wanted(session, models, rows, now)
    if wanted:
        session.execute(lease_statement(models), {"ids": [row.id for row in wanted], **values})
    return [to_claim(row, request.worker_id, row.claim_count + 1) for row in wanted], len(wanted) == len(rows)


def sweep(session: Door, models: StoreModels, queue: str, now: datetime) -> None:
    """End those of the first due tasks that are not to run any more, as many as one statement may name."""
    only_wanted(session, models, session.execute(first_due_tasks(models), {"in_queue": queue}).all(), now)


def claim_isolated(session: Door, models: StoreModels, request: ClaimRequest, now: datetime) -> list[Claim]:
    """Lease the task that has waited longest of those that must run alone, if there is one."""
    asked = {"in_queues": list(request.queues), "now": now}
    for _ in range(SWEEPS):
        found = session.execute(isolated_tasks(models), asked).all()
        rows = only_wanted(session, models, found, now)
        if rows:
            values = lease_values(request, now) | {"alone": True}
            session.execute(lease_statement(models), {"ids": [row.id for row in rows], **values})
            return [to_claim(row, request.worker_id, row.claim_count + 1)._replace(isolated=True) for row in rows]
        if not found:
            break
    return []


def isolated_waiting(session: Door, models: Models, queues: Sequence[str], now: datetime) -> bool:
    """Whether a task of these queues waits that must run alone."""
    return session.execute(first_isolated_id(models), {"in_queues": list(queues), "now": now}).first() is not None


def lease_values(request: ClaimRequest, now: datetime) -> dict[str, Any]:
    """What ``lease`` asks for."""
    until = now + timedelta(seconds=request.lease)
    return {"worker": request.worker_id, "now": now, "until": until, "alone": False}


def order_of_claims(claim: Claim) -> tuple[int, str]:
    """The highest priority first, equal ones in the order of their ids."""
    return -claim.priority, claim.id


def to_claim(row: Sequence[Any], worker_id: str, claim_count: int) -> Claim:
    """A row of ``claimed_columns``, with the number that this claim gave it."""
    # fmt: off
    (
        task_id, _, queue, name, function, args, kwargs, priority, created_at, retry_count, max_retries,
        timeout, options, crash_count, errors, _, _,
    ) = row
    return Claim(
        task_id, worker_id, claim_count, queue, name, function, args, kwargs, priority or 0, created_at,
        whole(retry_count), whole(max_retries), timeout, options, crash_count, errors,
    )
    # fmt: on


def whole(value: object) -> int:
    """A number that somebody may have written by hand: SQLite keeps NULL and texts there too, which count as 0."""
    return value if isinstance(value, int) else 0


@lru_cache
def due_tasks(models: StoreModels, looking: bool) -> Executable:
    """The claim's question; its ORDER BY is the order of the index, so the LIMIT ends the search."""
    return first_due(models, claimed_columns(models), looking)


def claimed_columns(models: Models) -> list[Any]:
    """What a worker is told of a task, and what says whether it is still to run."""
    told = [getattr(models.task, name) for name in Claim._fields if name not in ("worker_id", "isolated")]
    return [*told, models.task.expires_at, models.task.cancel_requested]


@lru_cache
def first_due_tasks(models: StoreModels) -> Executable:
    """What says of the first due tasks whether they are still to run."""
    task = models.task
    question = first_due(models, [task.id, task.expires_at, task.cancel_requested], looking=False)
    return question.limit(ROWS_A_STATEMENT)


def first_due(models: StoreModels, columns: list[Any], looking: bool) -> Select[Any]:
    """The due tasks of a queue that nobody else is about to claim, in the order of the claim; see ``claim_due``."""
    task, state = models.task, models.queue_state
    paused = exists().where(state.name == bindparam("in_queue"), state.paused_at.is_not(None))
    question = select(*columns)
    if looking:
        question = question.where(~any_scheduled(models).exists())
    return (
        using_index(models, question, "claim")
        .where(is_due(task), task.queue == bindparam("in_queue"), ~paused)
        .order_by(task.priority.desc(), task.id)
        .limit(bindparam("limit", type_=Integer))
        .with_for_update(skip_locked=True)
    )


@lru_cache
def isolated_tasks(models: Models) -> Executable:
    """The claim's question for a task that must run alone."""
    return first_isolated(models, claimed_columns(models)).with_for_update(skip_locked=True)


@lru_cache
def first_isolated_id(models: Models) -> Executable:
    """What says whether such a task waits."""
    return first_isolated(models, [models.task.id])


def first_isolated(models: Models, columns: list[Any]) -> Select[Any]:
    """The first of the tasks that must run alone.

    They wait among the future tasks, where nothing else is overdue for long: so neither question meets a task
    that is the other's affair.
    """
    task, state = models.task, models.queue_state
    paused = select(state.name).where(state.paused_at.is_not(None))
    return (
        select(*columns)
        .where(is_scheduled(task), task.due_at <= bindparam("now"), task.isolated == TRUE)
        .where(task.queue.in_(bindparam("in_queues", expanding=True)), task.queue.not_in(paused))
        .order_by(task.due_at)
        .limit(1)
    )


@lru_cache
def lease_statement(models: Models) -> Update:
    """Selected tasks become the worker's."""
    return lease(models).where(table_of(models.task).c.id.in_(bindparam("ids", expanding=True)))


@lru_cache
def claim_statement(models: StoreModels, looking: bool) -> ReturningUpdate[Any]:
    """Due tasks become the worker's in one statement. As an array, the ids are selected once, whatever the plan."""
    task = table_of(models.task)
    ids = func.array(first_due(models, [models.task.id], looking).scalar_subquery())
    # One that has expired ends in the same transaction, without having been begun.
    begun = case((task.c.expires_at <= bindparam("now"), task.c.started_at), else_=bindparam("now"))
    leasing = lease(models).values(started_at=begun).where(task.c.id == func.any(ids))
    return leasing.returning(*claimed_columns(models))


def lease(models: Models) -> Update:
    """Tasks become running; the number of the claim goes up with every one."""
    task = table_of(models.task)
    return update(task).values(
        status=TaskStatus.RUNNING.value,
        worker_id=bindparam("worker"),
        claim_count=task.c.claim_count + 1,
        started_at=bindparam("now"),
        lease_until=bindparam("until"),
        scheduled=FALSE,
        isolated=bindparam("alone"),
    )
