"""Queues are paused and resumed; a queue without a row runs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..models import Models, StoreModels
from ..wakeups import queue_topic
from .announcing import announce


def pause_queue(session: Session, models: Models, queue: str, now: datetime) -> None:
    """Keep the moment at which a queue was paused; a queue that is paused already keeps its own."""
    state = session.get(models.queue_state, queue)
    if state is None:
        session.add(models.queue_state(name=queue, paused_at=now))
    elif state.paused_at is None:
        state.paused_at = now
    session.flush()


def resume_queue(session: Session, models: StoreModels, queue: str) -> None:
    """Let a queue run again."""
    state = session.get(models.queue_state, queue)
    if state is not None:
        state.paused_at = None
    session.flush()
    announce(session, models, (queue_topic(queue),))


def paused_queues(session: Session, models: Models) -> list[str]:
    """The names of the paused queues, sorted."""
    state = models.queue_state
    statement = select(state.name).where(state.paused_at.is_not(None)).order_by(state.name)
    return list(session.execute(statement).scalars())
