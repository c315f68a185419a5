"""Queues are paused and resumed; a queue without a row runs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select, update

from ..models import Models, StoreModels
from ..wakeups import queue_topic
from .announcing import announce
from .door import Door
from .tables import table_of


def pause_queue(session: Door, models: Models, queue: str, now: datetime) -> None:
    """Keep the moment at which a queue was paused; a queue that is paused already keeps its own."""
    state = table_of(models.queue_state)
    found = session.execute(select(state.c.paused_at).where(state.c.name == queue)).first()
    if found is None:
        session.execute(insert(state).values(name=queue, paused_at=now))
    elif found.paused_at is None:
        session.execute(update(state).where(state.c.name == queue).values(paused_at=now))


def resume_queue(session: Door, models: StoreModels, queue: str) -> None:
    """Let a queue run again."""
    state = table_of(models.queue_state)
    session.execute(update(state).where(state.c.name == queue).values(paused_at=None))
    announce(session, models, (queue_topic(queue),))


def paused_queues(session: Door, models: Models) -> list[str]:
    """The names of the paused queues, sorted."""
    state = models.queue_state
    statement = select(state.name).where(state.paused_at.is_not(None)).order_by(state.name)
    return list(session.execute(statement).scalars())
