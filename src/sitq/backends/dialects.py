"""Which dialect is for which kind of database. The file of each kind adds its own."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..dialect import Dialect
from ..exceptions import ConfigurationError
from .sources import DatabaseAddress, EngineOptions, EngineSource, source_of

_dialects: dict[str, Callable[[EngineSource], Dialect]] = {}

KINDS: Collection[str] = _dialects.keys()
"""SQLAlchemy's names of the kinds that there is a dialect for."""


def register(kind: str, dialect: Callable[[EngineSource], Dialect]) -> None:
    """Say what makes the dialect for a kind of database, by SQLAlchemy's name for the kind."""
    _dialects[kind] = dialect


def checked_source(database: DatabaseAddress, options: EngineOptions, kinds: Collection[str] = KINDS) -> EngineSource:
    """Return where the engines come from; raise ``ConfigurationError`` unless it is of one of these kinds."""
    source = source_of(database, options)
    if source.kind not in kinds:
        raise ConfigurationError(f"there is no backend here for {source.kind!r}: give one of {', '.join(kinds)}")
    return source


def dialect_for(source: EngineSource) -> Dialect:
    """Return the dialect for engines of one of ``KINDS``."""
    return _dialects[source.kind](source)


def dialect_of(database: DatabaseAddress) -> Dialect:
    """Return the dialect for a URL, or for an engine, which it then borrows."""
    return dialect_for(checked_source(database, {}))
