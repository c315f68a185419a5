"""Who takes part. A contestant whose package is not installed is left out, and the report says so."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

NAMES = {
    "sqlite": (
        "by_hand_sqlite",
        "by_hand_core",
        "sitq_sqlite",
        "sitq_sqlite_full",
        "huey_sqlite_full",
        "huey_sqlite",
        "litequeue_sqlite",
        "taskito_sqlite",
        "honker_sqlite",
    ),
    "postgresql": (
        "by_hand_psycopg",
        "sitq_postgresql",
        "pgqueuer_postgresql",
        "procrastinate_postgresql",
        "oban_postgresql",
    ),
}


def load(name: str) -> type[Contestant]:
    """Import a contestant; raises ``ImportError`` if what it needs is not there."""
    return importlib.import_module(f"benchmarks.contestants.{name}").Entry


class Contestant:
    """One way to keep a queue. Each measurement runs in processes of its own; nothing is shared but the place.

    Attributes:
        title: what the tables call it.
        durability: what a commit promises, as it was set up here.
        share: of the tasks that the fastest get, so that slow ones end in time.
        share_drained: of those in turn, for who drains more slowly than it enqueues.
        measures: what it can do.
    """

    title = ""
    durability = ""
    share = 1.0
    share_drained = 1.0
    measures: tuple[str, ...] = ("one", "bulk", "drain")

    def __init__(self, place: str) -> None:
        """Take a folder for SQLite, or the URL of an empty PostgreSQL database."""
        self.place = place

    def set_up(self) -> None:
        """Make the tables."""

    def prepare(self, count: int) -> None:
        """Make what is no work of a queue, before the clock runs."""

    def enqueue_one_by_one(self, count: int) -> None:
        """Enqueue tasks, each acknowledged before the next."""
        raise NotImplementedError

    def enqueue_in_bulk(self, count: int, task: str = "noop") -> None:
        """Enqueue tasks by the fastest way that there is."""
        raise NotImplementedError

    def work(self, task: str) -> None:
        """Be a worker process, until it is killed."""
        raise NotImplementedError

    def count_done(self) -> int:
        """How many tasks have ended and are written."""
        raise NotImplementedError


class ByHand(Contestant):
    """A limit: what the database needs for rows that are there already."""

    prepared: Sequence[Any] = ()

    def make(self, count: int) -> Sequence[Any]:
        """Make rows with ids of their own."""
        raise NotImplementedError

    def prepare(self, count: int) -> None:
        """Make them."""
        self.prepared = self.make(count)

    def rows(self, count: int) -> Sequence[Any]:
        """Those that have been prepared, or others."""
        return self.prepared if len(self.prepared) == count else self.make(count)
