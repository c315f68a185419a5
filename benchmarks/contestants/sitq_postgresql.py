"""sitq on PostgreSQL."""

from __future__ import annotations

import sitq

from . import sitq_sqlite


class Entry(sitq_sqlite.Entry):
    """As the documents show it; the worker has 200 slots, and claims 100 tasks at a time while 100 run."""

    durability = "fsync on"
    measures = ("one", "concurrent", "bulk", "drain_async")
    slots = 200

    def backend(self) -> sitq.SQLAlchemyBackend:
        """Connect to the server."""
        return sitq.PostgreSQLBackend(self.place.replace("postgresql://", "postgresql+psycopg://", 1))
