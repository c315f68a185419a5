"""huey on SQLite as it comes: each commit is flushed to the disk."""

from __future__ import annotations

from . import huey_sqlite


class Entry(huey_sqlite.Entry):
    """The same with SQLite's default, which huey leaves as it is."""

    title = "huey, as it comes"
    durability = "WAL, synchronous=FULL"
    synchronous = "FULL"
