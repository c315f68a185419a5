"""SQLite keeps the contract, in a file and in memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sitq import BaseBackend, SQLiteBackend
from sitq.testing import BackendContract


@cache
def empty_database() -> bytes:
    """A file with the tables in it; making them for every test would take most of the time."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.db"
        with SQLiteBackend(path) as backend:
            backend.initialize()
        return path.read_bytes()


class TestSQLiteFile(BackendContract):
    def make_backend(self, folder: Path) -> BaseBackend:
        folder.mkdir(exist_ok=True)
        (folder / "tasks.db").write_bytes(empty_database())
        return SQLiteBackend(folder / "tasks.db")


class TestSQLiteMemory(BackendContract):
    keeps_after_close = False

    def make_backend(self, folder: Path) -> BaseBackend:
        return SQLiteBackend(":memory:")
