"""A deterministic simulation: several workers over one store, in one thread, with everything decided by a seed.

``python tests/proofs simulation`` runs 1,000 seeds that nobody ran before; ``--seed 17`` runs one, and prints what
happened. A failure is printed with its seed.

The workers are the real ones but for their threads (``simulated_worker``), the store is a SQLite file through one
backend for each (``simulated_store``). The seed decides who acts next, how long tasks take and how they end, what
goes wrong with calls, which worker stalls or dies, and where the clock jumps; ``judge`` looks at each commit.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from proofs.judge import Violation
from proofs.simulated_store import Store
from proofs.simulated_worker import without_threads
from proofs.simulated_world import WORKERS, Simulation


@contextmanager
def store_for_seeds() -> Iterator[Store]:
    with TemporaryDirectory() as folder, without_threads():
        store = Store(Path(folder), 1 + WORKERS)
        try:
            yield store
        finally:
            store.close()


def run_seed(store: Store, seed: int) -> Simulation:
    """Simulate one seed; raises ``Violation`` with the way to see it again."""
    simulation = Simulation(store, seed)
    try:
        simulation.run()
    except Violation as violation:
        violation.add_note("\n".join(simulation.story[-40:]))
        violation.add_note(f"again: python tests/proofs simulation --seed {seed}")
        raise
    return simulation


def digest(simulation: Simulation) -> str:
    """The same for two runs in which the same happened."""
    return sha256("\n".join(simulation.story).encode()).hexdigest()[:16]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python tests/proofs simulation")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds to run")
    parser.add_argument("--from", type=int, dest="first", default=None, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one, and tell what happened")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return tell(given.seed)
    first = random.SystemRandom().randrange(10**9) if given.first is None else given.first
    began, happened = time.monotonic(), Counter[str]()
    with store_for_seeds() as store:
        for seed in range(first, first + given.seeds):
            happened += run_seed(store, seed).happened
            if (seed - first) % 100 == 99:
                print(f"{seed - first + 1} of {given.seeds} seeds", flush=True)
    print(f"{given.seeds} seeds from {first} in {time.monotonic() - began:.0f} s, no violation")
    print(*(f"{number:9,}  {what}" for what, number in sorted(happened.items())), sep="\n")
    return 0


def tell(seed: int) -> int:
    with store_for_seeds() as store:
        simulation = Simulation(store, seed)
        try:
            simulation.run()
        finally:
            print("\n".join(simulation.story))
    print(f"seed {seed}: no violation, {digest(simulation)}")
    return 0
