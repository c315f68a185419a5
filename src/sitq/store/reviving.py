"""A restored database comes up as if every worker had died just then."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update

from ..models import Models, TaskStatus
from .door import Door
from .pausing import pause_queue
from .tables import FALSE, is_running, table_of

CLAIMS_SINCE = 1_000
"""How far the number of claims is moved on, so that no claim made since the backup fits a task any more."""

DEFAULT_QUEUE = "default"


def revive(session: Door, models: Models) -> None:
    """Put running tasks back to ``queued``, and let no worker's claim from before hold."""
    task = table_of(models.task)
    unfinished = (TaskStatus.QUEUED.value, TaskStatus.RUNNING.value)
    session.execute(
        update(task).where(task.c.status.in_(unfinished)).values(claim_count=task.c.claim_count + CLAIMS_SINCE)
    )
    session.execute(
        update(task)
        .where(is_running(models.task))
        .values(status=TaskStatus.QUEUED.value, scheduled=FALSE, worker_id=None, lease_until=None)
    )


def pause_every_queue(session: Door, models: Models, now: datetime) -> None:
    """Pause each queue that has a task or a state, and the default one."""
    in_use = session.execute(select(models.task.queue).distinct()).scalars().all()
    known = session.execute(select(models.queue_state.name)).scalars().all()
    for queue in {DEFAULT_QUEUE, *in_use, *known}:
        pause_queue(session, models, queue, now)
