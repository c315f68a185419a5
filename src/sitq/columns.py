"""Column types that mean the same on every database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import (
    DOUBLE,
    TEXT,
    TIMESTAMP,
    Boolean,
    ColumnElement,
    Dialect,
    Float,
    LargeBinary,
    Text,
    TypeDecorator,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from .exceptions import InvalidArgumentError


class _MariaDBType(TypeDecorator[Any]):
    """A type of MariaDB's dialect, which takes long to import and is for those who use it: it is named here."""

    # Alembic writes a type down as the module of its class and its repr.
    __module__ = "sqlalchemy.dialects.mysql"
    impl = Text
    cache_ok = True

    def __init__(self, type_name: str, length: int | None = None, collation: str | None = None) -> None:
        super().__init__()
        self.type_name = type_name
        self.length = length
        self.collation = collation

    @property
    def _arguments(self) -> dict[str, int | str]:
        given = {"collation": self.collation, "length": self.length}
        return {name: value for name, value in given.items() if value is not None}

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type that is named; its dialect is in use."""
        from sqlalchemy.dialects import mysql

        named: Callable[..., TypeEngine[Any]] = getattr(mysql, self.type_name)
        return dialect.type_descriptor(named(**self._arguments))

    def __repr__(self) -> str:
        return f"{self.type_name}({', '.join(f'{name}={value!r}' for name, value in self._arguments.items())})"

    def __reduce__(self) -> tuple[object, ...]:
        return _mariadb_type, (self.type_name, self.length, self.collation)


def _mariadb_type(type_name: str, length: int | None, collation: str | None) -> _MariaDBType:
    return _MariaDBType(type_name, length, collation)


# MariaDB cannot index TEXT, and its BLOB and TEXT end at 64 KiB. PostgreSQL compares ids byte by byte
# under the collation C, which is their order in time, and cheaper than a language's rules.
_short_text = _MariaDBType("VARCHAR", length=255, collation="utf8mb4_bin")
Key = Text().with_variant(_short_text, "mysql", "mariadb").with_variant(TEXT(collation="C"), "postgresql")
Word = Text().with_variant(_short_text, "mysql", "mariadb")
LongText = Text().with_variant(_MariaDBType("LONGTEXT"), "mysql", "mariadb")
Payload = LargeBinary().with_variant(_MariaDBType("LONGBLOB"), "mysql", "mariadb")
Real = Float(53).with_variant(DOUBLE(), "mysql", "mariadb")


SECONDS_LENGTH, TEXT_LENGTH = len("2026-01-01 00:00:00"), len("2026-01-01 00:00:00.000000")


class UTCDateTime(TypeDecorator[datetime]):
    """A moment in UTC, aware in Python; naive values are refused.

    SQLite keeps it as text (``YYYY-MM-DD HH:MM:SS.ffffff``, so that text order is time order and
    ``CURRENT_TIMESTAMP`` reads back), PostgreSQL as ``TIMESTAMPTZ``, MariaDB as ``DATETIME(6)``.
    """

    impl = TIMESTAMP(timezone=True)
    cache_ok = True

    # So Alembic writes the plain type, and the scripts of an app that owns the tables need no import of sitq,
    # now or ever.
    __module__ = "sqlalchemy.types"

    def __repr__(self) -> str:
        return "TIMESTAMP(timezone=True)"

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (isinstance(self, _OnMariaDB), self._variant_mapping)

    @property
    def python_type(self) -> type[datetime]:
        """``datetime``, always aware."""
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware datetime into UTC; raise ``InvalidArgumentError`` for a naive one."""
        return None if value is None else in_utc(value)

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """Write SQLite's text by one call of ``datetime``: SQLAlchemy's own way takes five times as long."""
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Mark what the database gave as UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """Read what SQLite lets anybody write there too: a number as Unix time, what is no time as ``None``."""
        read = super().result_processor(dialect, coltype)
        if read is None:
            return None
        return lambda value: None if value is None else _from_text(value) or _read_time(read, value)


def _to_text(value: datetime | None) -> str | None:
    return None if value is None else in_utc(value).isoformat(" ", "microseconds")[:TEXT_LENGTH]


def _from_text(value: object) -> datetime | None:
    """Read what ``_to_text`` and ``CURRENT_TIMESTAMP`` write, and nothing else."""
    if isinstance(value, str) and len(value) in (SECONDS_LENGTH, TEXT_LENGTH):
        with suppress(ValueError):
            return datetime.fromisoformat(f"{value}+00:00")
    return None


def in_utc(value: datetime) -> datetime:
    """The same moment in UTC; raises ``InvalidArgumentError`` for a naive one."""
    if value.tzinfo is None:
        raise InvalidArgumentError(f"{value!r} has no time zone; give an aware datetime, as datetime.now(UTC) is")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


class _OnMariaDB(UTCDateTime):
    """The same as MariaDB's ``DATETIME(6)``."""

    __module__ = "sqlalchemy.dialects.mysql"
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of MariaDB's dialect, which is in use."""
        from sqlalchemy.dialects import mysql

        return dialect.type_descriptor(mysql.DATETIME(fsp=6))

    def __repr__(self) -> str:
        return "DATETIME(fsp=6)"


Moment = UTCDateTime().with_variant(_OnMariaDB(), "mysql", "mariadb")


def _unpickled(on_mariadb: bool, variants: Any) -> UTCDateTime:
    made = _OnMariaDB() if on_mariadb else UTCDateTime()
    made._variant_mapping = variants
    return made


def _read_time(read: Callable[[Any], datetime | None], value: Any) -> datetime | None:
    # One row that somebody wrote by hand must not keep a worker from all the others.
    try:
        return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else read(value)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


class utc_now(FunctionElement[datetime]):  # noqa: N801  # named as the SQL function that it is
    """The database's clock as a column's server default."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(utc_now)
def _current_timestamp(element: utc_now, compiler: Any, **options: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(utc_now, "mysql", "mariadb")
def _utc_timestamp(element: utc_now, compiler: Any, **options: Any) -> str:
    # CURRENT_TIMESTAMP would be in the session's time zone, which DATETIME does not keep. SQLAlchemy adds the
    # parentheses if it knows the server; without them Alembic finds the default that the server tells equal.
    return "utc_timestamp(6)" if compiler.dialect.server_version_info else "(utc_timestamp(6))"


class sql_false(ColumnElement[bool]):  # noqa: N801
    """FALSE as a column's server default, written as each database gives it back."""

    type = Boolean()
    inherit_cache = True


@compiles(sql_false)
def _false(element: sql_false, compiler: Any, **options: Any) -> str:
    return "FALSE"


@compiles(sql_false, "mysql", "mariadb")
def _zero(element: sql_false, compiler: Any, **options: Any) -> str:
    return "0"


class database_now(FunctionElement[datetime]):  # noqa: N801
    """The time of the statement by the database's clock."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(database_now)
def _statement_timestamp(element: database_now, compiler: Any, **options: Any) -> str:
    return "statement_timestamp()"


@compiles(database_now, "sqlite")
def _strftime(element: database_now, compiler: Any, **options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


@compiles(database_now, "mysql", "mariadb")
def _utc_timestamp_now(element: database_now, compiler: Any, **options: Any) -> str:
    return "utc_timestamp(6)"


class seconds_between(FunctionElement["float | None"]):  # noqa: N801
    """The seconds from one moment to another; NULL if either is."""

    type = cast("TypeEngine[float | None]", Float())
    inherit_cache = True


@compiles(seconds_between)
def _extract_epoch(element: seconds_between, compiler: Any, **options: Any) -> str:
    start, end = _moments(element, compiler, options)
    return f"CAST(EXTRACT(EPOCH FROM {end} - {start}) AS DOUBLE PRECISION)"


@compiles(seconds_between, "sqlite")
def _julianday(element: seconds_between, compiler: Any, **options: Any) -> str:
    start, end = _moments(element, compiler, options)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


@compiles(seconds_between, "mysql", "mariadb")
def _timestampdiff(element: seconds_between, compiler: Any, **options: Any) -> str:
    start, end = _moments(element, compiler, options)
    return f"(TIMESTAMPDIFF(MICROSECOND, {start}, {end}) / 1e6)"


def _moments(element: seconds_between, compiler: Any, options: dict[str, Any]) -> list[str]:
    return [compiler.process(clause, **options) for clause in element.clauses]
