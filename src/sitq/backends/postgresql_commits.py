"""A statement that commits itself, over psycopg: its driver begins transactions by a message of their own."""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from .postgresql_listening import ARRIVING


@contextmanager
def committing_itself(connection: Connection) -> Iterator[bool]:
    """Let statements commit themselves meanwhile, and say whether they do; no transaction is open before and after."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.driver != "psycopg" or connection.dialect.is_async or has_news(driver):
        yield False
        return
    driver.autocommit = True
    try:
        yield True
    finally:
        if not driver.broken:
            driver.autocommit = False


def has_news(driver: Any) -> bool:
    """Whether the server has said something unasked: it may have closed the connection, which BEGIN finds out."""
    with ARRIVING() as arriving:
        arriving.register(driver, selectors.EVENT_READ)
        return bool(arriving.select(0))
