"""What a database's tables lack or add, seen from the models of this version or of an app."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, ForeignKeyConstraint, Inspector, Table, UniqueConstraint, inspect
from sqlalchemy.exc import SAWarning

from .documented import kind, may_be_left_out


def differences(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """Say what would keep this version from reading and writing the tables as sitq makes them.

    Further tables, further indexes, and further columns that a row may leave out are not told.
    """
    tables, inspector = tuple(tables), inspect(connection)
    yield from _lacks(inspector, tables)
    for table in _present(inspector, tables):
        yield from _foreign_key_differences(inspector, table)
        yield from _checks(inspector, table)


def lacks(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """Say what an app's tables lack. References and checks are the app's own affair."""
    yield from _lacks(inspect(connection), tuple(tables))


def lost_indexes(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """Say which indexes are not there that make claims fast; MariaDB is told to use one of them, and refuses."""
    inspector = inspect(connection)
    for table in _present(inspector, tables):
        found = _quietly(inspector.get_indexes, table)
        names = {index["name"] for index in found}
        for name in sorted(str(index.name) for index in table.indexes if not index.unique):
            if name not in names:
                yield f"the index {name} of {table.name} is missing"


def _place(table: Table) -> tuple[str, str | None]:
    return table.name, table.schema


def _present(inspector: Inspector, tables: Iterable[Table]) -> Iterator[Table]:
    return (table for table in tables if inspector.has_table(*_place(table)))


def _lacks(inspector: Inspector, tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        if not inspector.has_table(*_place(table)):
            yield f"the table {table.name} is missing"
            continue
        yield from _column_differences(inspector, table)
        yield from _key_differences(inspector, table)
        yield from _uniqueness(inspector, table)


def _column_differences(inspector: Inspector, table: Table) -> Iterator[str]:
    present: dict[str, Any] = {column["name"]: column for column in inspector.get_columns(*_place(table))}
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
    primary = inspector.get_pk_constraint(*_place(table))["constrained_columns"]
    if primary != [column.name for column in table.primary_key]:
        yield f"the primary key of {table.name} is ({', '.join(primary)})"


def _foreign_key_differences(inspector: Inspector, table: Table) -> Iterator[str]:
    known = {_foreign_key(constraint) for constraint in table.foreign_key_constraints}
    found = {
        (tuple(key["constrained_columns"]), key["referred_table"], tuple(key["referred_columns"]))
        for key in inspector.get_foreign_keys(*_place(table))
    }
    for columns, referred, _ in known - found:
        yield f"the foreign key of {table.name} ({', '.join(columns)}) to {referred} is missing"
    for columns, referred, _ in found - known:
        if not set(table.columns.keys()).isdisjoint(columns):
            yield f"{table.name} ({', '.join(columns)}) has a new foreign key to {referred}"


def _foreign_key(constraint: ForeignKeyConstraint) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    referred = tuple(element.column.name for element in constraint.elements)
    return tuple(constraint.column_keys), constraint.referred_table.name, referred


def _uniqueness(inspector: Inspector, table: Table) -> Iterator[str]:
    """Unique constraints that rows of this version do not know of, and lost ones."""
    known = _known_unique(table)
    found = _unique_columns(inspector, table)
    for columns in known - found:
        yield f"{table.name} ({_listed(columns)}) is no longer unique"
    for columns in found - known:
        yield f"{table.name} ({_listed(columns)}) has become unique"


def _checks(inspector: Inspector, table: Table) -> Iterator[str]:
    for check in inspector.get_check_constraints(*_place(table)):
        yield f"{table.name} has a new check {check['name'] or check['sqltext']}"


def _known_unique(table: Table) -> set[tuple[str | None, ...]]:
    indexes: set[tuple[str | None, ...]] = {tuple(index.columns.keys()) for index in table.indexes if index.unique}
    constraints = (each for each in table.constraints if isinstance(each, UniqueConstraint))
    return indexes | {tuple(constraint.columns.keys()) for constraint in constraints}


def _unique_columns(inspector: Inspector, table: Table) -> set[tuple[str | None, ...]]:
    indexes = {tuple(index["column_names"]) for index in _quietly(inspector.get_indexes, table) if index["unique"]}
    constraints = _quietly(inspector.get_unique_constraints, table)
    return indexes | {tuple(constraint["column_names"]) for constraint in constraints}


def _quietly(look: Callable[..., list[Any]], table: Table) -> list[Any]:
    with warnings.catch_warnings():  # SQLAlchemy tells of indexes on expressions, which it cannot see on SQLite
        warnings.simplefilter("ignore", SAWarning)
        return look(*_place(table))


def _listed(columns: Iterable[str | None]) -> str:
    return ", ".join(column or "an expression" for column in columns)
