"""SQLAlchemy Core by hand over SQLite, in batches of 100."""

from __future__ import annotations

import pickle
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, LargeBinary, MetaData, String, Table, bindparam, create_engine, event, func, select

from ..work import TASKS
from . import ByHand
from .by_hand_sqlite import BATCH

metadata = MetaData()
tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("args", LargeBinary),
    Column("status", String, index=True),
    Column("created_at", String),
)
results = Table("results", metadata, Column("task_id", String, primary_key=True), Column("value", LargeBinary))
due = select(tasks.c.id, tasks.c.args).where(tasks.c.status == "queued").order_by(tasks.c.id).limit(BATCH)
change = tasks.update().where(tasks.c.id == bindparam("of")).values(status=bindparam("to"))


class Entry(ByHand):
    """Statements that are kept, on a connection that stays open."""

    title = "SQLAlchemy Core by hand, batches of 100"
    durability = "WAL, synchronous=NORMAL"

    def connect(self) -> Any:
        """Connect, with transactions that begin by taking the write lock."""
        engine = create_engine(f"sqlite:///{self.place}/core.db", connect_args={"timeout": 60})
        event.listen(engine, "connect", lambda driver, record: prepare(driver))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine.connect()

    def set_up(self) -> None:
        """Make the tables."""
        with self.connect() as connection, connection.begin():
            metadata.create_all(connection)

    def make(self, count: int) -> list[dict[str, Any]]:
        """Rows with ids of their own."""
        now = datetime.now(UTC).isoformat()
        return [
            {"id": str(uuid.uuid1()), "args": pickle.dumps((number,)), "status": "queued", "created_at": now}
            for number in range(count)
        ]

    def enqueue_one_by_one(self, count: int) -> None:
        """One row a transaction."""
        statement = tasks.insert()
        with self.connect() as connection:
            for row in self.rows(count):
                with connection.begin():
                    connection.execute(statement, row)

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """All rows in one transaction."""
        with self.connect() as connection, connection.begin():
            connection.execute(tasks.insert(), self.rows(count))

    def work(self, task: str) -> None:
        """Claim, run and complete."""
        connection, function = self.connect(), TASKS[task]
        while True:
            with connection.begin():
                found = connection.execute(due).all()
                if found:
                    connection.execute(change, [{"of": row.id, "to": "running"} for row in found])
            values = [{"task_id": row.id, "value": pickle.dumps(function(*pickle.loads(row.args)))} for row in found]
            if found:
                with connection.begin():
                    connection.execute(change, [{"of": row.id, "to": "completed"} for row in found])
                    connection.execute(results.insert(), values)

    def count_done(self) -> int:
        """Count the results."""
        with self.connect() as connection:
            return connection.execute(select(func.count()).select_from(results)).scalar_one()


def prepare(driver: Any) -> None:
    """Set a new connection up as sitq does."""
    driver.isolation_level = None
    driver.execute("PRAGMA journal_mode=WAL")
    driver.execute("PRAGMA synchronous=NORMAL")
