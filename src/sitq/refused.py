"""Outcomes that a database refuses: they are found, so that they do not stand in the way of the others."""

from __future__ import annotations

from .attempt import unstorable
from .backends.base import BaseBackend
from .claims import Outcome
from .exceptions import BackendError


async def write_one_by_one(backend: BaseBackend, outcomes: list[Outcome]) -> None:
    """Write outcomes in their order, and take out what is written, until one cannot be, with its value or without."""
    while outcomes and await write_alone(backend, outcomes[0]):
        del outcomes[0]


async def write_alone(backend: BaseBackend, outcome: Outcome) -> bool:
    """Write an outcome, as a failure if its value is what the database refuses; say whether it is written."""
    try:
        await backend.afinish([outcome])
    except Exception as exc:  # judged by whether the same without a value can be written
        if outcome.value is None or not may_lie_in_an_outcome(exc):
            return False
        return await write_alone(backend, unstorable(outcome, exc))
    return True


def may_lie_in_an_outcome(exc: Exception) -> bool:
    """Say whether an outcome may be what the backend refuses; the named kinds of ``BackendError`` mean the database."""
    return type(exc) is BackendError or not isinstance(exc, BackendError)
