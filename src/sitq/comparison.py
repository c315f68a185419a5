"""What a database's tables lack or add, seen from the models of this version."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, ForeignKeyConstraint, Inspector, MetaData, Table, inspect
from sqlalchemy.exc import SAWarning

from .documented import kind, may_be_left_out


def differences(connection: Connection, metadata: MetaData) -> Iterator[str]:
    """Say what would keep this version from reading and writing the tables of ``metadata``.

    Further tables, further indexes, and further columns that a row may leave out are not told.
    """
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in present:
            yield f"the table {table.name} is missing"
            continue
        yield from _column_differences(inspector, table)
        yield from _key_differences(inspector, table)
        yield from _restrictions(inspector, table)


def _column_differences(inspector: Inspector, table: Table) -> Iterator[str]:
    present: dict[str, Any] = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        found = present.pop(column.name, None)
        if found is None:
            yield f"the column {table.name}.{column.name} is missing"
        elif not _same_kind(found["type"], column.type):
            yield f"the column {table.name}.{column.name} has the type {found['type']}"
        elif found["nullable"] != column.nullable:
            yield f"the column {table.name}.{column.name} is {'' if found['nullable'] else 'not '}nullable"
        elif column.server_default is not None and found["default"] is None:
            yield f"the column {table.name}.{column.name} has lost its default"
    for name, found in present.items():
        if not may_be_left_out(found):
            yield f"the new column {table.name}.{name} must be given a value"


def _same_kind(found: Any, known: Any) -> bool:
    return kind(found) is kind(known)


def _key_differences(inspector: Inspector, table: Table) -> Iterator[str]:
    primary = inspector.get_pk_constraint(table.name)["constrained_columns"]
    if primary != [column.name for column in table.primary_key]:
        yield f"the primary key of {table.name} is ({', '.join(primary)})"
    known = {_foreign_key(constraint) for constraint in table.foreign_key_constraints}
    found = {
        (tuple(key["constrained_columns"]), key["referred_table"], tuple(key["referred_columns"]))
        for key in inspector.get_foreign_keys(table.name)
    }
    for columns, referred, _ in known - found:
        yield f"the foreign key of {table.name} ({', '.join(columns)}) to {referred} is missing"
    for columns, referred, _ in found - known:
        if not set(table.columns.keys()).isdisjoint(columns):
            yield f"{table.name} ({', '.join(columns)}) has a new foreign key to {referred}"


def _foreign_key(constraint: ForeignKeyConstraint) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    referred = tuple(element.column.name for element in constraint.elements)
    return tuple(constraint.column_keys), constraint.referred_table.name, referred


def _restrictions(inspector: Inspector, table: Table) -> Iterator[str]:
    """Unique and check constraints that rows of this version do not know of, and lost unique ones."""
    known: set[tuple[str | None, ...]] = {tuple(index.columns.keys()) for index in table.indexes if index.unique}
    found = _unique_columns(inspector, table.name)
    for columns in known - found:
        yield f"{table.name} ({_listed(columns)}) is no longer unique"
    for columns in found - known:
        yield f"{table.name} ({_listed(columns)}) has become unique"
    for check in inspector.get_check_constraints(table.name):
        yield f"{table.name} has a new check {check['name'] or check['sqltext']}"


def _unique_columns(inspector: Inspector, table: str) -> set[tuple[str | None, ...]]:
    with warnings.catch_warnings():  # SQLAlchemy tells of indexes on expressions, which it cannot see on SQLite
        warnings.simplefilter("ignore", SAWarning)
        indexes = {tuple(index["column_names"]) for index in inspector.get_indexes(table) if index["unique"]}
        constraints = {tuple(constraint["column_names"]) for constraint in inspector.get_unique_constraints(table)}
    return indexes | constraints


def _listed(columns: Iterable[str | None]) -> str:
    return ", ".join(column or "an expression" for column in columns)
