"""Running tasks say how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import Update, bindparam, update

from ..claims import Progress
from ..models import Models, TaskStatus
from .door import Door
from .fencing import count_changed, holds, statuses_under, token_values
from .tables import table_of


def write_progress(session: Door, models: Models, reports: Sequence[Progress]) -> list[bool]:
    """Keep the latest word of running tasks; say of each whether its claim still held."""
    values = [token_values(each.token) | {"fraction": each.fraction, "note": each.note} for each in reports]
    if count_changed(session, progress_statement(models), values) == len(reports):
        return [True] * len(reports)
    statuses = statuses_under(session, models, [each.token for each in reports])
    return [statuses.get(each.token) is TaskStatus.RUNNING for each in reports]


@lru_cache
def progress_statement(models: Models) -> Update:
    """What a task says of itself, as long as its claim holds."""
    task = table_of(models.task)
    return update(task).where(holds(task)).values(progress=bindparam("fraction"), progress_note=bindparam("note"))
