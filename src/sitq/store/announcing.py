"""News for other processes, which goes out with the commit that makes it, where the database can send any."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from sqlalchemy import Executable, bindparam, select

from ..models import StoreModels
from .door import Door


def announce(session: Door, models: StoreModels, topics: Collection[str]) -> None:
    """Send each topic once when the transaction commits."""
    if models.news is not None:
        for topic in topics:
            session.execute(news_statement(models), {"topic": topic})


@lru_cache
def news_statement(models: StoreModels) -> Executable:
    """Send a topic, and nothing else."""
    assert models.news is not None, "announce has looked"
    return select(models.news(bindparam("topic")))
