"""SQLCipher below SQLAlchemy: the dialects of SQLite, with the errors of a driver that is not ``sqlite3``."""

from __future__ import annotations

from typing import Any

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi, SQLiteDialect_aiosqlite
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from .sqlite_encryption import ASYNC_DRIVER, SYNC_DRIVER, load_driver

ERRORS = ("DatabaseError", "Error", "IntegrityError", "NotSupportedError", "OperationalError", "ProgrammingError")


class SQLCipherDialect(SQLiteDialect_pysqlite):
    """For the sync door. Its engines are given connections that have their key already."""

    driver = SYNC_DRIVER
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """SQLCipher's driver."""
        return load_driver()


class AsyncDriver(AsyncAdapt_aiosqlite_dbapi):
    """aiosqlite over connections of SQLCipher, which raise errors of their own."""

    def _init_dbapi_attributes(self) -> None:
        super()._init_dbapi_attributes()
        for name in (*ERRORS, "sqlite_version", "sqlite_version_info"):
            setattr(self, name, getattr(self.sqlite, name))


class AsyncSQLCipherDialect(SQLiteDialect_aiosqlite):
    """For the async door."""

    driver = ASYNC_DRIVER
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """SQLCipher's driver, in aiosqlite's thread."""
        return AsyncDriver(aiosqlite, load_driver())
