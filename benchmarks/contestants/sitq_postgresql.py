"""sitq on PostgreSQL."""

from __future__ import annotations

import sitq

from . import sitq_sqlite


class Entry(sitq_sqlite.Entry):
    """As the documents show it; the worker runs 100 tasks at once."""

    durability = "fsync on"
    measures = ("one", "concurrent", "bulk", "drain_async")

    def backend(self) -> sitq.SQLAlchemyBackend:
        """Connect to the server."""
        return sitq.PostgreSQLBackend(self.place.replace("postgresql://", "postgresql+psycopg://", 1))
