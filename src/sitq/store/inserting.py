"""Rows in bulk, where the database has a way of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.orm import MappedAsDataclass

from ..models import StoreModels
from .door import Door, connection_of
from .tables import table_of


def insert_in_bulk(
    session: Door,
    models: StoreModels,
    model: type[MappedAsDataclass],
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    *,
    replacing: bool = False,
) -> bool:
    """Insert rows that have these columns; say ``False`` where there is no such way. See ``BulkInsert``."""
    bulk_insert = models.bulk_insert
    if bulk_insert is None:
        return False
    return bulk_insert(connection_of(session), table_of(model), columns, rows, replacing=replacing)
