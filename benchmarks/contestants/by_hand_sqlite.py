"""The limit: the driver of SQLite by hand, in batches of 100."""

from __future__ import annotations

import pickle
import sqlite3
import uuid
from datetime import UTC, datetime
from functools import cached_property

from ..work import TASKS
from . import ByHand

BATCH = 100
TABLES = """
CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, args BLOB, status TEXT NOT NULL, created_at TEXT);
CREATE INDEX IF NOT EXISTS ix_due ON tasks (id) WHERE status = 'queued';
CREATE TABLE IF NOT EXISTS results (task_id TEXT PRIMARY KEY, value BLOB);
"""
CLAIM = "SELECT id, args FROM tasks WHERE status = 'queued' ORDER BY id LIMIT ?"


class Entry(ByHand):
    """One connection, one table, one index."""

    title = "sqlite3 by hand, batches of 100"
    durability = "WAL, synchronous=NORMAL"

    def connect(self) -> sqlite3.Connection:
        """Open the file as sitq does."""
        connection = sqlite3.connect(f"{self.place}/by_hand.db", isolation_level=None, timeout=60)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def set_up(self) -> None:
        """Make the tables."""
        self.connect().executescript(TABLES)

    def make(self, count: int) -> list[tuple[str, bytes, str]]:
        """Rows with ids of their own."""
        now = datetime.now(UTC).isoformat()
        return [(str(uuid.uuid1()), pickle.dumps((number,)), now) for number in range(count)]

    @cached_property
    def connection(self) -> sqlite3.Connection:
        """One that stays open, since closing it folds the log."""
        return self.connect()

    def enqueue_one_by_one(self, count: int) -> None:
        """One row a transaction."""
        connection = self.connection
        for row in self.rows(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO tasks VALUES (?, ?, 'queued', ?)", row)
            connection.execute("COMMIT")

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """All rows in one transaction."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO tasks VALUES (?, ?, 'queued', ?)", self.rows(count))
        connection.execute("COMMIT")

    def work(self, task: str) -> None:
        """Claim, run and complete."""
        connection, function = self.connect(), TASKS[task]
        while True:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute(CLAIM, (BATCH,)).fetchall()
            ids = [(row[0],) for row in found]
            connection.executemany("UPDATE tasks SET status = 'running' WHERE id = ?", ids)
            connection.execute("COMMIT")
            values = [(row[0], pickle.dumps(function(*pickle.loads(row[1])))) for row in found]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE tasks SET status = 'completed' WHERE id = ?", ids)
            connection.executemany("INSERT INTO results VALUES (?, ?)", values)
            connection.execute("COMMIT")

    def count_done(self) -> int:
        """Count the results."""
        return self.connect().execute("SELECT count(*) FROM results").fetchone()[0]
