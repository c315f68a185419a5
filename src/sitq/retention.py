"""Retention: a worker deletes tasks that ended long ago, as it goes along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from .backends.base import BaseBackend
from .options import check_seconds, check_verbs

logger = logging.getLogger("sitq.worker")

PURGES_A_RETENTION = 10
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 300.0  # seconds between two purges


def check_retention(backend: BaseBackend, retention: object) -> float | None:
    """Return for how many seconds ended tasks are kept; the backend must be able to delete them."""
    if retention is None:
        return None
    check_verbs("backend", backend, ("apurge",), "one that can delete tasks, for a worker with retention")
    return check_seconds("retention", retention)


@asynccontextmanager
async def purging(backend: BaseBackend, retention: float | None) -> AsyncIterator[None]:
    """Purge in the background of the block, unless ``retention`` is ``None``."""
    if retention is None:
        yield
        return
    task = asyncio.create_task(keep_purging(backend, retention), name="sitq-retention")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def keep_purging(backend: BaseBackend, retention: float) -> None:
    """Delete what ended more than ``retention`` seconds ago, again and again, until cancelled.

    Several workers may do so at once: what one has deleted, the others do not find.
    """
    pause = min(max(retention / PURGES_A_RETENTION, SHORTEST_PAUSE), LONGEST_PAUSE)
    apurge = cast(Any, backend).apurge  # not one of the verbs that every backend has
    while True:
        try:
            purged = await apurge(older_than=retention)
        except Exception as exc:  # tasks matter more than space; the next purge tries again
            fields = {"event": "purge_failed", "error_type": type(exc).__qualname__}
            logger.warning("ended tasks could not be purged, trying again: %s", exc, extra=fields)
        else:
            if purged:
                logger.info("ended tasks purged", extra={"event": "tasks_purged", "tasks": purged})
        await asyncio.sleep(pause)
