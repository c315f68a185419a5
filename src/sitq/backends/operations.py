"""What an operator asks of a database: how it is, copies of it, and less of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import ParamSpec, TypeVar

from .. import store
from ..access import NO_CONTROL, Access
from ..database import Database
from ..dialect import Progress
from ..exceptions import DatabaseCorruptError, InvalidArgumentError, NotADatabaseError
from ..health import CheckReport, Health
from ..models import TaskStatus
from ..options import Seconds, check_bool, check_moment, check_seconds, refuse
from ..secret import Secret, concealed
from .base import BaseBackend
from .examining import Examiner
from .guarding import guards_itself

P = ParamSpec("P")
T = TypeVar("T")

PURGE_REST = 0.002
"""Seconds between two batches of a purge, which are left to the workers."""


class OperatedBackend(BaseBackend):
    """The verbs for operators, over a ``Database``. Each has an async twin that leaves the event loop alone."""

    _database: Database
    access: Access = NO_CONTROL

    def health_check(self) -> Health:
        """Look how the database is; opens it if this is the first use. Never raises, and ends within 5 seconds.

        A database that is gone, locked, damaged, encrypted or of another schema is unhealthy, with the reason.
        """
        return self._examiner.health()

    def backup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Write a copy of the database to a file while others go on using it.

        The copy is one moment's, and checked before it gets its name: a backup that fails or is killed leaves
        what was under that name before, and at most a file ending in ``.part`` beside it.

        Args:
            path: the file, in a folder that exists; a file of that name is replaced.
            progress: called with the pages that are done and how many there are. What it raises ends the backup.

        Raises:
            BackendError: the database cannot be read, or the file cannot be written; its kind says why.
        """
        self._operate(self._database.dialect.back_up, self._database, check_file("path", path), progress)

    def restore(self, path: str | os.PathLike[str], *, paused: bool = False, progress: Progress | None = None) -> None:
        """Put the content of a backup in the place of this database's, in one step, under everybody's eyes.

        The backup is checked and upgraded on a copy first; if anything is wrong, or the process is killed, the
        database stays as it was. Tasks that were running come up ``queued``, and may run a second time.

        Args:
            path: a file that ``backup`` wrote, or a plain copy of a closed database. It is not changed.
            paused: whether every queue comes up paused, so that you can look before anything runs.
            progress: called with the pages that are in place and how many there are, before they are seen.

        Raises:
            ReadOnlyError: the backend was opened with ``readonly=True``.
            NotADatabaseError: the file is something else, or encrypted otherwise than this database.
            DatabaseCorruptError: the file is damaged.
            SchemaError: the file has no tables of sitq, or those of a newer version.
        """
        source = check_file("path", path)
        check_bool("paused", paused)
        with self._database.translated():
            damaged = self._open_to_replace()
            self._database.dialect.restore(self._database, damaged, source, paused, progress)
        self.wakeups.notify_all()

    @guards_itself("rekey")
    def rekey(self, new_key: str | Secret | None) -> None:
        """Encrypt the database with another key; a plain one is encrypted, and ``None`` decrypts.

        The database is written anew under the new key and put in place in one step: a process that is killed
        leaves it readable with the old key or with the new one. Nobody else may have it open meanwhile; this
        backend's connections are closed, and open again with the new key. Backups keep the key that they have.

        Raises:
            DatabaseLockedError: somebody else has the database open.
            NotAvailableError: SQLCipher is not installed, or this is not a database that sitq can encrypt.
        """
        new_key = concealed(new_key)
        self.access.require("rekey")
        with self._database.translated():
            self._database.open_to_write()
            with self._database.kept_closed():
                self._database.dialect.rekey(new_key)

    def vacuum(self) -> None:
        """Give the space of deleted rows back to the disk. Writers wait as long; it needs room for a copy."""
        self._operate_to_write(self._database.dialect.vacuum)

    def optimize(self) -> None:
        """Let the database take statistics of its tables, so that it finds the best way through them."""
        self._operate_to_write(self._database.dialect.optimize)

    def check(self) -> CheckReport:
        """Look at every page and every reference; what is damaged is reported, not raised."""
        try:
            return self._operate(self._database.dialect.check)
        except (DatabaseCorruptError, NotADatabaseError) as error:
            return CheckReport((str(error),))

    def check_schema(self) -> None:
        """Raise ``SchemaError`` unless the tables have every column, key and index that this version needs.

        It names all that is missing or of another type, and alters nothing: run it in CI after your migrations,
        whether sitq owns the tables or your app.

        Raises:
            SchemaOutdatedError: sitq's own tables are of an older revision.
            SchemaTooNewError: they are newer, and this version cannot work with them.
            SchemaError: there are no tables, or they lack something.
        """
        self._database.check_schema()

    def purge(self, *, older_than: Seconds | datetime, status: str | Iterable[str] | None = None) -> int:
        """Delete tasks that ended long ago, with their results; return how many.

        They go in small batches, between which workers go on.

        Args:
            older_than: how long ago they must have ended, or the moment before which.
            status: ``completed``, ``failed`` or ``cancelled``, or several of these; all of them unless given.

        Raises:
            ConfigurationError: a value is not allowed; unfinished tasks are never purged.
        """
        before, statuses = self._purge_limits(older_than, status)
        purged = 0
        for ended in self._database.read(store.ended_tasks, statuses, before):
            while some := self._database.write(store.purge_some, ended, before):
                purged += some
                time.sleep(PURGE_REST)
        return purged

    async def apurge(self, *, older_than: Seconds | datetime, status: str | Iterable[str] | None = None) -> int:
        """See ``purge``."""
        before, statuses = await asyncio.to_thread(self._purge_limits, older_than, status)
        purged = 0
        for ended in await self._database.aread(store.ended_tasks, statuses, before):
            while some := await self._database.awrite(store.purge_some, ended, before):
                purged += some
                await asyncio.sleep(PURGE_REST)
        return purged

    def _purge_limits(
        self, older_than: Seconds | datetime, status: str | Iterable[str] | None
    ) -> tuple[datetime, tuple[TaskStatus, ...]]:
        statuses = check_ended("status", status)
        if isinstance(older_than, datetime):
            before = check_moment("older_than", older_than)
        else:
            before = self.now() - timedelta(seconds=check_seconds("older_than", older_than))
        self._database.open_to_write()
        return before, statuses

    # How the operations reach the database.

    def _operate(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation of the dialect that changes nothing."""
        with self._database.translated():
            self._database.open()
            return operation(*args, **kwargs)

    def _operate_to_write(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation of the dialect that changes something."""
        with self._database.translated():
            self._database.open_to_write()
            return operation(*args, **kwargs)

    def _open_to_replace(self) -> bool:
        """Open the database to replace its content, and say whether that turned out to be damaged."""
        try:
            self._database.open_to_write()
        except (DatabaseCorruptError, NotADatabaseError):
            self._database.close()
            return True
        return False

    @cached_property
    def _examiner(self) -> Examiner:
        return Examiner(self._database)

    # The async twins.

    async def ahealth_check(self) -> Health:
        """See ``health_check``."""
        return await asyncio.to_thread(self.health_check)

    async def abackup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """See ``backup``; ``progress`` is called in another thread."""
        await asyncio.to_thread(self.backup, path, progress=progress)

    async def arestore(
        self, path: str | os.PathLike[str], *, paused: bool = False, progress: Progress | None = None
    ) -> None:
        """See ``restore``; ``progress`` is called in another thread."""
        await asyncio.to_thread(self.restore, path, paused=paused, progress=progress)

    @guards_itself("rekey")
    async def arekey(self, new_key: str | Secret | None) -> None:
        """See ``rekey``."""
        new_key = concealed(new_key)
        await asyncio.to_thread(self.rekey, new_key)

    async def avacuum(self) -> None:
        """See ``vacuum``."""
        await asyncio.to_thread(self.vacuum)

    async def aoptimize(self) -> None:
        """See ``optimize``."""
        await asyncio.to_thread(self.optimize)

    async def acheck(self) -> CheckReport:
        """See ``check``."""
        return await asyncio.to_thread(self.check)

    async def acheck_schema(self) -> None:
        """See ``check_schema``."""
        await asyncio.to_thread(self.check_schema)


def check_file(option: str, value: object) -> Path:
    """Return the absolute path of a file."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path.strip() or "\0" in path or path == ":memory:" or "://" in path:
        refuse(option, value, "the path of a file, as str or Path")
    if Path(path).is_dir():
        refuse(option, value, "the path of a file; this is a folder")
    return Path(path).absolute()


def check_ended(option: str, value: str | Iterable[str] | None) -> tuple[TaskStatus, ...]:
    """Return statuses in which tasks have ended."""
    ended = tuple(status for status in TaskStatus if status.ended)
    if value is None:
        return ended
    names = [value] if isinstance(value, str) else list(value)
    try:
        statuses = tuple(dict.fromkeys(TaskStatus.parse(name) for name in names))
    except InvalidArgumentError:
        statuses = ()
    if not statuses or not set(statuses) <= set(ended):
        refuse(option, value, "one or more of " + ", ".join(repr(status.value) for status in ended))
    return statuses
