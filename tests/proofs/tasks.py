"""What the workers under test run. Each call tells the log when it begins, does its work, and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sitq

from . import witness


@contextmanager
def attempt(number: int) -> Iterator[witness.Run]:
    """Tell of the run of a call from its beginning to its end, however it ends."""
    run = witness.present().begin(number, sitq.current_task())
    try:
        yield run
    finally:
        run.tell("ended")


def work(number: int, seconds: float) -> int:
    with attempt(number) as run:
        time.sleep(seconds)
        run.take_effect()
        return run.claim


def carry(number: int, payload: bytes) -> int:
    with attempt(number) as run:
        run.take_effect()
        return run.claim


async def work_later(number: int, seconds: float) -> int:
    with attempt(number) as run:
        await asyncio.sleep(seconds)
        run.take_effect()
        return run.claim


def fail_once(number: int, seconds: float) -> int:
    with attempt(number) as run:
        time.sleep(seconds)
        if sitq.current_task().attempt == 1:
            raise ValueError("the first attempt fails")
        run.take_effect()
        return run.claim


async def fail_always(number: int, seconds: float) -> None:
    with attempt(number):
        await asyncio.sleep(seconds)
        raise ValueError("every attempt fails")


def hold(number: int, gate: str) -> int:
    with attempt(number) as run:
        while not is_open(gate, run):
            time.sleep(0.02)
        run.take_effect()
        return run.claim


async def hold_later(number: int, gate: str) -> int:
    with attempt(number) as run:
        while not is_open(gate, run):  # noqa: ASYNC110  # another process opens it
            await asyncio.sleep(0.02)
        run.take_effect()
        return run.claim


def is_open(gate: str, run: witness.Run) -> bool:
    """Whether a run that is held may go on: the first has a gate of its own."""
    return Path(f"{gate}-{'first' if run.claim == 1 else 'later'}").exists()


async def block_the_loop(number: int, seconds: float) -> int:
    with attempt(number) as run:
        time.sleep(seconds)  # noqa: ASYNC251  # this is the fault
        run.take_effect()
        return run.claim
