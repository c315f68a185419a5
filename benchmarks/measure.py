"""One measurement in a process of its own: ``python -m benchmarks.measure CONTESTANT PLACE WHAT [COUNT [TASK]]``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from .contestants import Contestant, load


def seconds(enqueue: Callable[[int], None], count: int) -> float:
    """How long it takes to enqueue so many; the opening, measured apart by enqueueing one, is taken off."""
    opening = timed(enqueue, 1)
    return timed(enqueue, count) - opening


def timed(enqueue: Callable[[int], None], count: int) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    enqueue(count)
    return time.perf_counter() - began


def measure(contestant: Contestant, what: str, count: int, task: str) -> float | None:
    """Do one thing; return how long it took, where that is to be known."""
    contestant.prepare(count)
    if what == "one":
        return seconds(contestant.enqueue_one_by_one, count)
    if what == "concurrent":
        return seconds(contestant.enqueue_concurrently, count)  # type: ignore[attr-defined]  # it says that it can
    if what == "bulk":
        return seconds(contestant.enqueue_in_bulk, count)
    if what == "fill":
        contestant.enqueue_in_bulk(count, task)
    elif what == "work":
        contestant.work(task)
    return None


def main(name: str, place: str, what: str, count: str = "0", task: str = "noop") -> None:
    """Measure, and print the seconds."""
    contestant = load(name)(place)
    contestant.set_up() if what in ("one", "concurrent", "bulk", "fill") else None
    took = measure(contestant, what, int(count), task)
    if took is not None:
        print(f"seconds {took}")


if __name__ == "__main__":
    main(*sys.argv[1:])
