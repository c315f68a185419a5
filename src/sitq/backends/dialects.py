"""Which dialect is for which kind of database. The file of each kind adds its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Unpack

from ..dialect import Dialect
from ..exceptions import ConfigurationError
from .engine_options import EngineOptions
from .sources import DatabaseAddress, EngineSource, source_of

_dialects: dict[str, Callable[[EngineSource], Dialect]] = {}
_with_schemas: set[str] = set()

KINDS: Collection[str] = _dialects.keys()
"""SQLAlchemy's names of the kinds that there is a dialect for."""


def register(kind: str, dialect: Callable[[EngineSource], Dialect], *, has_schemas: bool = False) -> None:
    """Say what makes the dialect for a kind of database, by SQLAlchemy's name, and whether it can use a schema."""
    _dialects[kind] = dialect
    if has_schemas:
        _with_schemas.add(kind)


def checked_source(database: DatabaseAddress, options: EngineOptions, kinds: Collection[str] = KINDS) -> EngineSource:
    """Return where the engines come from; raise ``ConfigurationError`` unless it is of one of these kinds."""
    source = source_of(database, options)
    if source.kind not in kinds:
        raise ConfigurationError(f"there is no backend here for {source.kind!r}: give one of {', '.join(kinds)}")
    if source.schema is not None:
        require_schemas(source.kind, source.schema)
    return source


def require_schemas(kind: str, schema: object) -> None:
    """Raise ``ConfigurationError`` if the databases of this kind hold no schemas."""
    if kind not in _with_schemas:
        raise ConfigurationError(
            f"schema={schema!r} is not allowed for {kind}: only PostgreSQL has schemas inside a database. Name another "
            f"database, or give the tables other names: models=sitq.declare_models(Base)"
        )


def dialect_for(source: EngineSource) -> Dialect:
    """Return the dialect for engines of one of ``KINDS``."""
    return _dialects[source.kind](source)


def dialect_of(database: DatabaseAddress, **options: Unpack[EngineOptions]) -> Dialect:
    """Return the dialect for a URL, or for an engine, which it then borrows."""
    return dialect_for(checked_source(database, options))
