"""Listening to SQLAlchemy's events for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Let a function hear of an event meanwhile."""
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)
