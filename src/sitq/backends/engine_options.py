"""What a backend on a server takes with a URL: the pool, the patience, the log, the schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from sqlalchemy import URL

from ..options import Seconds, check_bool, check_name, check_seconds, refuse
from .sqlite_options import check_pool

LONGEST_SCHEMA = 55  # letters, so that the name of the channel that is heard ends within PostgreSQL's 63 bytes


class EngineOptions(TypedDict, total=False):
    """What every backend on a server takes with a URL. An engine has all but ``connection_timeout`` already.

    Keys:
        connection_pool_size: connections kept by each pool, 1 or more; 5 unless given.
        max_overflow: connections more when all are in use; 10 unless given.
        pool_timeout: seconds to wait for a connection of the pool; 30 unless given.
        pool_recycle: seconds after which a connection is opened anew; never, unless given.
        connection_timeout: seconds to wait for the server to answer, and for somebody else's lock; 30 unless given.
        log_queries: log each statement, without parameters, to the logger ``sitq.sql``.
        schema: PostgreSQL's schema that holds sitq's tables, made if it is missing; the connection's own unless given.
            ``?schema=`` in a URL says the same.
    """

    connection_pool_size: int
    max_overflow: int
    pool_timeout: Seconds
    pool_recycle: Seconds | None
    connection_timeout: Seconds
    log_queries: bool
    schema: str | None


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """``EngineOptions`` that have been checked; ``pool`` holds the keywords of SQLAlchemy's pool."""

    pool: dict[str, Any]
    connection_timeout: float
    log_queries: bool
    schema: str | None


def take_schema(url: URL, options: EngineOptions) -> tuple[URL, EngineOptions]:
    """Take ``?schema=`` out of a URL, which no driver knows, and put it with the options."""
    if "schema" not in url.query:
        return url, options
    named = url.query["schema"]
    if "schema" in options and options["schema"] != named:
        refuse("schema", options["schema"], "the one that the URL names, or leave it out of the URL")
    return url.difference_update_query(["schema"]), {**options, "schema": str(named)}


def check_options(
    connection_pool_size: object = 5,
    max_overflow: object = 10,
    pool_timeout: object = 30.0,
    pool_recycle: object = None,
    connection_timeout: object = 30.0,
    log_queries: object = False,
    schema: object = None,
) -> CheckedOptions:
    """Check ``EngineOptions``."""
    return CheckedOptions(
        pool=check_pool(connection_pool_size, max_overflow, pool_timeout, pool_recycle),
        connection_timeout=check_seconds("connection_timeout", connection_timeout, at_least=0.001, at_most=1e6),
        log_queries=check_bool("log_queries", log_queries),
        schema=None if schema is None else check_schema(schema),
    )


def check_schema(value: object) -> str:
    """Return the name of a schema."""
    name = check_name("schema", value, longest=LONGEST_SCHEMA)
    if "%" in name:  # which drivers take for the place of a parameter
        refuse("schema", name, "a name without '%'")
    return name
