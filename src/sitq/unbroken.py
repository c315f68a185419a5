"""Awaiting to the end, also when cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger("sitq")


async def unbroken(work: Awaitable[T], on_cancel: Callable[[], object] | None = None) -> T:
    """Await what must not be broken off: a connection in mid-statement would be lost, how a commit went be unknown.

    A cancellation calls ``on_cancel`` at once, and waits until the work has ended.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("it failed while its caller was being cancelled: %s", error)
        raise
