"""sitq on SQLite, each commit flushed to the disk."""

from __future__ import annotations

from . import sitq_sqlite


class Entry(sitq_sqlite.Entry):
    """The same with ``synchronous="FULL"``."""

    title = "sitq, synchronous=FULL"
    durability = "WAL, synchronous=FULL"
    synchronous = "FULL"
    measures = ("one", "concurrent", "bulk", "drain_async")
