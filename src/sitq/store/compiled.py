"""Hot statements: compiled once for a dialect, then run as text with values in the order that the driver takes.

What SQLAlchemy does for each row of an ordinary execution costs more than the row costs the database. Those who listen
to cursors, and so the log and the timing of queries, hear of these statements as of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import Connection, CursorResult, Delete, Dialect, Float, Insert, LargeBinary, Select, Update
from sqlalchemy.types import TypeEngine

from ..exceptions import SerializationError
from .door import Door, connection_of

Row: TypeAlias = Mapping[str, Any]
Process: TypeAlias = Callable[[Any], Any]
Change: TypeAlias = Insert | Update | Delete | Select[Any]
"""A SELECT has its changes in what it selects from."""


class Compiled:
    """The text of a statement for one dialect, and how named values become what its driver takes."""

    def __init__(self, statement: Change, dialect: Dialect, schemas: Mapping[str | None, str]) -> None:
        compiled = statement.compile(
            dialect=dialect, schema_translate_map=schemas or None, render_schema_translate=bool(schemas)
        )
        self.text = str(compiled)
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        processes = {name: processor_of(bind.type, dialect) for name, bind in binds.items()}
        constants = {name: bind.value for name, bind in binds.items() if not bind.required}
        self._constants = {
            name: value if (process := processes.pop(name)) is None else process(value)
            for name, value in constants.items()
        }
        self._processes = {name: process for name, process in processes.items() if process is not None}
        self._order = tuple(compiled.positiontup) if compiled.positiontup is not None else None
        self.values = self._named if self._order is None else self._positional(self._order)
        reads = [reader_of(column.type, dialect) for column in statement.exported_columns]
        self._reads = [(place, read) for place, read in enumerate(reads) if read is not None]

    def _named(self, row: Row) -> dict[str, Any]:
        values = {**self._constants, **row}
        for name, process in self._processes.items():
            values[name] = process(values[name])
        return values

    def _positional(self, order: tuple[str, ...]) -> Callable[[Row], tuple[Any, ...]]:
        """Make what turns a row into a tuple."""
        pick = itemgetter(*order) if len(order) > 1 else lambda row: (row[order[0]],)
        places = [(place, self._processes[name]) for place, name in enumerate(order) if name in self._processes]
        constants = self._constants

        def values(row: Row) -> tuple[Any, ...]:
            picked = pick({**constants, **row} if constants else row)
            if not places:
                return picked
            processed = list(picked)
            for place, process in places:
                processed[place] = process(processed[place])
            return tuple(processed)

        return values

    def read(self, row: Sequence[Any]) -> Sequence[Any]:
        """Make Python's values of what the driver gave."""
        values = list(row)
        for place, read in self._reads:
            values[place] = read(values[place])
        return values


def processor_of(type_: TypeEngine[Any], dialect: Dialect) -> Process | None:
    """What makes the driver's value of one of this type, or ``None`` if the driver takes it as it is.

    Where ``Binary`` is a mere view, bytes themselves will do, and spare the garbage collector two objects each.
    """
    process = type_.dialect_impl(dialect).bind_processor(dialect)
    if type(type_) is not LargeBinary:
        return process
    if process is None or getattr(dialect.loaded_dbapi, "Binary", None) is memoryview:
        return require_bytes
    return lambda value: process(require_bytes(value))


def reader_of(type_: TypeEngine[Any], dialect: Dialect) -> Process | None:
    """What makes Python's value of the driver's, or ``None`` if that is one, as every driver's floats are."""
    if isinstance(type_, Float):
        return None
    return type_.dialect_impl(dialect).result_processor(dialect, None)


def require_bytes(value: object) -> object:
    """Return the value; raise ``SerializationError`` for what a database would keep as something else than bytes."""
    if value is None or isinstance(value, bytes | bytearray | memoryview):
        return value
    raise SerializationError(f"a serializer must give bytes, not a value of type {type(value).__name__}")


@lru_cache(maxsize=1000)
def compile_once(statement: Change, dialect: Dialect, schemas: tuple[tuple[str | None, str], ...]) -> Compiled:
    """A statement that is kept is compiled once for each dialect of an engine."""
    return Compiled(statement, dialect, dict(schemas))


def execute_rows(door: Door, statement: Change, rows: Sequence[Row]) -> CursorResult[Any]:
    """Run a kept statement for each row, with a value for each of its parameters."""
    connection = connection_of(door)
    compiled = compiled_for(connection, statement)
    values = compiled.values
    if len(rows) == 1:
        return connection.exec_driver_sql(compiled.text, values(rows[0]))
    return connection.exec_driver_sql(compiled.text, [values(row) for row in rows])


def fetch_rows(door: Door, statement: Change, row: Row) -> list[Sequence[Any]]:
    """Run a kept statement, with a value for each of its parameters, and return what it gives."""
    connection = connection_of(door)
    compiled = compiled_for(connection, statement)
    found = connection.exec_driver_sql(compiled.text, compiled.values(row)).all()
    return [compiled.read(each) for each in found]


def compiled_for(connection: Connection, statement: Change) -> Compiled:
    """A kept statement, as this connection needs it."""
    schemas: Mapping[str | None, str] = connection.get_execution_options().get("schema_translate_map") or {}
    return compile_once(statement, connection.dialect, tuple(schemas.items()))
