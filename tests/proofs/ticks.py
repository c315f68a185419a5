"""What the soak's workers run: a line in the log when it begins, and one when its work is done."""

from __future__ import annotations

import asyncio
import os
from functools import cache


@cache
def log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND)


async def tick(path: str, number: int) -> int:
    os.write(log(path), f"began {os.getpid()} {number}\n".encode())
    await asyncio.sleep(0.002)
    os.write(log(path), f"ended {os.getpid()} {number}\n".encode())
    return number
