"""SQLite: the embedded default, and its options."""

from __future__ import annotations

import logging
import os
from typing import Any

from ..access import NO_CONTROL, Role, check_access
from ..exceptions import ConfigurationError
from ..models import Models
from ..options import Seconds, check_bool, check_choice, check_int, check_seconds
from ..secret import Secret, concealed
from .guarding import guarded
from .sql import SQLAlchemyBackend
from .sqlite_dialect import SQLiteDialect
from .sqlite_options import (
    MEMORY,
    SYNCHRONOUS,
    TEMP_STORES,
    SQLiteOptions,
    check_database,
    check_encryption,
    check_journal_mode,
    check_pool,
    new_memory_name,
)


@guarded
class SQLiteBackend(SQLAlchemyBackend):
    """Tasks and results in an SQLite file, or in memory.

    Nothing is opened before the first use, which makes the folder, the file and the tables. One connection
    more than the pool holds is kept for writing, and the async pool is a second one of the same size.

    Args:
        database: a path, or ``":memory:"`` for a database that lives as long as the backend is open.
        connection_pool_size: connections kept by each pool, 1 or more.
        max_overflow: connections more when all are in use.
        pool_timeout: seconds to wait for a connection of the pool.
        pool_recycle: seconds after which a connection is opened anew; never, unless given.
        connection_timeout: seconds to wait for somebody else's lock.
        enable_wal: write-ahead logging, on unless told otherwise.
        checkpoint_interval: pages after which the log is folded into the file; 0 never does.
        synchronous: ``OFF``, ``NORMAL``, ``FULL`` or ``EXTRA``.
        journal_mode: overrides ``enable_wal``.
        cache_size: pages of cache a connection; a negative number counts KiB.
        temp_store: ``DEFAULT``, ``FILE`` or ``MEMORY``.
        readonly: open an existing file so that nothing can be written.
        debug: let the logger ``sitq`` log at level DEBUG.
        log_queries: log each statement, without parameters, to the logger ``sitq.sql``.
        auto_upgrade: upgrade an older schema when the database is opened.
        encryption_key: what the file, its log and its backups are encrypted with. Needs the extra ``encryption``.
        cipher: ``AES-256``, the one that there is.
        read_only_users: users that may look. Without any of the three lists there is no control.
        write_users: users that may also enqueue, run, cancel and retry tasks.
        admin_users: users that may do everything.
        user: the acting user; the operating system's, unless given.
        models: what ``declare_models`` returned, if your app owns the tables; then they are never altered.

    Raises:
        ConfigurationError: a value is not allowed; the message names option, value and what is.
        NotAvailableError: SQLCipher is not installed.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] = "sitq.db",
        *,
        connection_pool_size: int = 5,
        max_overflow: int = 10,
        pool_timeout: Seconds = 30.0,
        pool_recycle: Seconds | None = None,
        connection_timeout: Seconds = 30.0,
        enable_wal: bool | None = None,
        checkpoint_interval: int | None = None,
        synchronous: str = "NORMAL",
        journal_mode: str | None = None,
        cache_size: int | None = None,
        temp_store: str | None = None,
        readonly: bool = False,
        debug: bool = False,
        log_queries: bool = False,
        auto_upgrade: bool = True,
        encryption_key: str | Secret | None = None,
        cipher: str | None = None,
        read_only_users: list[str] | None = None,
        write_users: list[str] | None = None,
        admin_users: list[str] | None = None,
        user: str | None = None,
        models: Models | None = None,
    ) -> None:
        encryption_key = concealed(encryption_key)
        path = check_database(database)
        temp_store = optional(check_choice, "temp_store", temp_store, allowed=TEMP_STORES, any_case=True)
        key = check_encryption(encryption_key, cipher, in_memory=path == MEMORY, temp_store=temp_store)
        access = check_access(read_only_users, write_users, admin_users, user)
        if models is not None and access is not NO_CONTROL:
            raise ConfigurationError("lists of users guard sitq's own tables: leave them out, or leave out models")
        options = SQLiteOptions(
            database=path,
            journal_mode=check_journal_mode(enable_wal, journal_mode),
            synchronous=check_choice("synchronous", synchronous, SYNCHRONOUS, any_case=True),
            connection_timeout=check_seconds("connection_timeout", connection_timeout, at_most=1e6),
            checkpoint_interval=optional(check_int, "checkpoint_interval", checkpoint_interval, at_least=0),
            cache_size=optional(check_int, "cache_size", cache_size),
            temp_store=temp_store,
            read_only=check_bool("readonly", readonly) or access.role is Role.READER,
            log_queries=check_bool("log_queries", log_queries),
            pool=check_pool(connection_pool_size, max_overflow, pool_timeout, pool_recycle),
            memory_name=new_memory_name(),
            key=key,
            access=access,
        )
        if check_bool("debug", debug):
            logging.getLogger("sitq").setLevel(logging.DEBUG)
        dialect = SQLiteDialect(options)
        self.use(dialect, target=options.database, auto_upgrade=auto_upgrade, models=models, access=access)


def optional(check: Any, option: str, value: object, **limits: Any) -> Any:
    """Check a value unless it is ``None``."""
    return None if value is None else check(option, value, **limits)
