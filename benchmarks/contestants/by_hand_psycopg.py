"""The limit on PostgreSQL: psycopg by hand, in batches of 100."""

from __future__ import annotations

import pickle
import uuid
from typing import Any

import psycopg

from ..work import TASKS
from . import ByHand
from .by_hand_sqlite import BATCH

TABLES = """
CREATE TABLE by_hand_tasks (id TEXT COLLATE "C" PRIMARY KEY, args BYTEA, status TEXT NOT NULL, created_at TIMESTAMPTZ);
CREATE INDEX ix_due ON by_hand_tasks (id) WHERE status = 'queued';
CREATE TABLE by_hand_results (task_id TEXT PRIMARY KEY, value BYTEA);
"""
CLAIM = """
UPDATE by_hand_tasks SET status = 'running' WHERE id = ANY(ARRAY(
    SELECT id FROM by_hand_tasks WHERE status = 'queued' ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
)) RETURNING id, args
"""
FINISH = "UPDATE by_hand_tasks SET status = 'completed' WHERE id = ANY(%s)"
STORE = "INSERT INTO by_hand_results SELECT * FROM unnest(%s::text[], %s::bytea[])"
INSERT = "INSERT INTO by_hand_tasks VALUES (%s, %s, 'queued', now()) RETURNING pg_notify('by_hand', 'default')"


class Entry(ByHand):
    """One connection, one table, one index; each enqueue of one sends a notification."""

    title = "psycopg by hand, batches of 100"
    durability = "fsync on"

    def connect(self) -> psycopg.Connection[Any]:
        """Connect to the server."""
        return psycopg.connect(self.place)

    def set_up(self) -> None:
        """Make the tables."""
        with self.connect() as connection:
            connection.execute(TABLES)

    def make(self, count: int) -> list[tuple[str, bytes]]:
        """Rows with ids of their own."""
        return [(str(uuid.uuid1()), pickle.dumps((number,))) for number in range(count)]

    def enqueue_one_by_one(self, count: int) -> None:
        """One row a transaction."""
        with self.connect() as connection:
            for row in self.rows(count):
                connection.execute(INSERT, row)
                connection.commit()

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """COPY, in one transaction."""
        with self.connect() as connection, connection.cursor() as cursor:
            with cursor.copy("COPY by_hand_tasks (id, args, status) FROM STDIN") as copy:
                for row in self.rows(count):
                    copy.write_row((*row, "queued"))
            connection.commit()

    def work(self, task: str) -> None:
        """Claim, run and complete."""
        connection, function = self.connect(), TASKS[task]
        while True:
            found = connection.execute(CLAIM, (BATCH,), prepare=True).fetchall()
            connection.commit()
            ids = [row[0] for row in found]
            values = [pickle.dumps(function(*pickle.loads(row[1]))) for row in found]
            connection.execute(FINISH, (ids,), prepare=True)
            connection.execute(STORE, (ids, values), prepare=True)
            connection.commit()

    def count_done(self) -> int:
        """Count the results."""
        with self.connect() as connection:
            return connection.execute("SELECT count(*) FROM by_hand_results").fetchall()[0][0]
