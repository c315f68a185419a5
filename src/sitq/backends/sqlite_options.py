"""The SQLite backend's options: checked when it is made, before anything is opened."""

from __future__ import annotations

import os
import uuid
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import URL

from ..access import NO_CONTROL, Access
from ..exceptions import ConfigurationError, SitqWarning
from ..options import check_bool, check_choice, check_int, check_seconds, refuse
from .sqlite_encryption import ASYNC_DRIVER, SYNC_DRIVER, EncryptionKey, check_cipher, check_key

MEMORY: Final = ":memory:"
JOURNAL_MODES = ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "OFF")
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
TEMP_STORES = ("DEFAULT", "FILE", "MEMORY")


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteOptions:
    """Checked options, in the words of SQLite; ``None`` leaves SQLite's own default.

    Attributes:
        database: an absolute path, or ``":memory:"``.
        journal_mode: one of ``JOURNAL_MODES``.
        pool: the keywords of SQLAlchemy's pool.
        key: what the file is encrypted with; ``None`` if it is not.
        access: what the acting user may do, which connections see to as well.
    """

    database: str
    journal_mode: str
    synchronous: str
    connection_timeout: float
    checkpoint_interval: int | None
    cache_size: int | None
    temp_store: str | None
    read_only: bool
    log_queries: bool
    pool: dict[str, Any]
    memory_name: str
    key: EncryptionKey | None = None
    access: Access = NO_CONTROL

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.database)

    def at(self, path: Path, **changes: Any) -> SQLiteOptions:
        """The same options for another file."""
        return replace(self, database=str(path), **changes)

    @property
    def in_memory(self) -> bool:
        """Whether the database lives in this process only."""
        return self.database == MEMORY

    @property
    def url(self) -> URL:
        """The URL of the sync engine. It names the dialect; connections are opened without it."""
        return self._url("pysqlite" if self.key is None else SYNC_DRIVER)

    @property
    def async_url(self) -> URL:
        """The URL of the async engine."""
        return self._url("aiosqlite" if self.key is None else ASYNC_DRIVER)

    def _url(self, driver: str) -> URL:
        drivername = f"sqlite+{driver}"
        if self.in_memory:
            # Every connection in the process sees one database; a shared cache would lock whole tables.
            return URL.create(drivername, database=f"file:/{self.memory_name}", query={"vfs": "memdb", "uri": "true"})
        if self.read_only:
            query = {**self._reading, "uri": "true"}
            return URL.create(drivername, database=self.path.as_uri(), query=query)
        return URL.create(drivername, database=self.database)

    def uri(self, *, create: bool = False) -> str:
        """What the driver connects to, below SQLAlchemy; ``create`` makes a file that is missing."""
        if self.in_memory:
            return f"file:/{self.memory_name}?vfs=memdb"
        query = self._reading if self.read_only else {"mode": "rwc" if create else "rw"}
        return f"{self.path.as_uri()}?{urlencode(query)}"

    @property
    def _reading(self) -> dict[str, str]:
        # Beside a file in WAL mode SQLite wants to make others, unless it is told that nobody can write.
        folder = self.path.parent
        fixed = os.access(folder, os.X_OK) and not os.access(folder, os.W_OK)
        fixed = fixed and not self.path.with_name(self.path.name + "-wal").exists()
        return {"mode": "ro", "immutable": "1"} if fixed else {"mode": "ro"}

    def pragmas(self) -> dict[str, str | int]:
        """What is set on every connection when it is opened."""
        pragmas: dict[str, str | int | None] = {
            "busy_timeout": self.busy_timeout,
            # Set on a read-only connection it would be an attempt to write.
            "journal_mode": None if self.read_only or self.in_memory else self.journal_mode,
            "synchronous": self.synchronous,
            "wal_autocheckpoint": self.checkpoint_interval,
            "cache_size": self.cache_size,
            "temp_store": self.temp_store,
            "foreign_keys": "ON",
        }
        return {name: value for name, value in pragmas.items() if value is not None}

    @property
    def busy_timeout(self) -> int:
        """``connection_timeout`` in the milliseconds that SQLite counts."""
        return round(self.connection_timeout * 1000)


def check_database(value: object) -> str:
    """Return an absolute path or ``":memory:"``."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        refuse("database", value, 'a path as str or Path, or ":memory:"')
    if path == MEMORY:
        return MEMORY
    if "://" in path or path.startswith("file:"):
        refuse("database", path.split(":", 1)[0] + ":…", "a path; sitq.open_backend takes URLs")
    return str(Path(path).absolute())


def check_encryption(
    encryption_key: object, cipher: object, *, in_memory: bool, temp_store: str | None
) -> EncryptionKey | None:
    """Return the key, if there is one and everything that is on disk is going to be encrypted with it."""
    check_cipher(cipher, encrypted=encryption_key is not None)
    if encryption_key is None:
        return None
    if in_memory:
        raise ConfigurationError(
            "encryption_key is not allowed with ':memory:', which is never on a disk: give a path, or leave it out"
        )
    if temp_store == "FILE":
        raise ConfigurationError(
            "temp_store='FILE' is not allowed with encryption_key, since SQLite would not encrypt those files: "
            "give 'MEMORY', or leave it out"
        )
    return check_key("encryption_key", encryption_key)


def check_journal_mode(enable_wal: bool | None, journal_mode: str | None) -> str:
    """Return the journal mode; where the two options disagree, the explicit mode wins, with a warning."""
    if enable_wal is not None:
        check_bool("enable_wal", enable_wal)
    if journal_mode is None:
        return "DELETE" if enable_wal is False else "WAL"
    mode = check_choice("journal_mode", journal_mode, JOURNAL_MODES, any_case=True)
    if enable_wal is not None and enable_wal != (mode == "WAL"):
        warnings.warn(
            f"enable_wal={enable_wal} and journal_mode={mode!r} disagree; journal_mode is used",
            SitqWarning,
            stacklevel=4,
        )
    return mode


def check_pool(size: object, max_overflow: object, timeout: object, recycle: object) -> dict[str, Any]:
    """Return the keywords of SQLAlchemy's QueuePool."""
    return {
        "pool_size": check_int("connection_pool_size", size, at_least=1),
        "max_overflow": check_int("max_overflow", max_overflow, at_least=0),
        "pool_timeout": check_seconds("pool_timeout", timeout),
        "pool_recycle": -1 if recycle is None else check_seconds("pool_recycle", recycle, zero=False),
    }


def new_memory_name() -> str:
    """A name that no other memory database in this process has."""
    return f"sitq-{uuid.uuid4()}"
