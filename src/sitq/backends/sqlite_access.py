"""Access control inside SQLite: what the connections of a reader or a writer refuse, whoever sends the statement."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from ..access import Access, Role
from ..models import QueueState, Task
from ..schema import VERSION_TABLE

LOOKS: Final = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
    }
)
CHANGES: Final = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})

PRAGMAS: Final = frozenset(
    {"busy_timeout", "table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
    | {"foreign_key_check", "integrity_check", "quick_check", "wal_checkpoint"}
)
"""Those that may be given a value. Without one, a pragma only tells how things are."""

FUNCTIONS: Final = frozenset({"load_extension", "sqlcipher_export"})
"""Those that nobody but an admin may call."""

PROTECTED: Final = frozenset({VERSION_TABLE, str(QueueState.__tablename__)})
"""Tables that only admins change: the revision of the schema, and which queues are paused."""


def restrict(driver: Any, access: Access) -> None:
    """Let a connection refuse what the user's role does not include. It is the last that is done to a new one."""
    if access.role is Role.READER:
        driver.execute("PRAGMA query_only=ON")
        driver.set_authorizer(authorize_reader)
    elif access.role is Role.WRITER:
        driver.set_authorizer(authorize_writer)


def authorize_reader(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Say whether a statement of a reader's may do this."""
    return sqlite3.SQLITE_OK if may_look(action, first, second) else sqlite3.SQLITE_DENY


def authorize_writer(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Say whether a statement of a writer's may do this."""
    allowed = may_look(action, first, second) or (action in CHANGES and may_change(action, first))
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def may_look(action: int, first: str | None, second: str | None) -> bool:
    """Whether this changes nothing, neither in the database nor in what the connection lets through."""
    if action == sqlite3.SQLITE_PRAGMA:
        return second is None or (first or "").lower() in PRAGMAS
    if action == sqlite3.SQLITE_FUNCTION:
        return (second or "").lower() not in FUNCTIONS
    return action in LOOKS


def may_change(action: int, table: str | None) -> bool:
    """Whether writers may do this to the rows of this table. Purging tasks is for admins."""
    name = (table or "").lower()
    if action == sqlite3.SQLITE_DELETE and name == Task.__tablename__:
        return False
    return name not in PROTECTED and not name.startswith("sqlite_")
