"""The model: any sequence of verbs does to a real store what it does to a model in memory.

``python tests/proofs model --examples 300 --on sqlite postgresql`` looks at new sequences each time; what it
finds is printed as the shortest sequence that fails, and comes again with the ``--seed`` that is printed with it.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import text

from databases import SERVERS, empty_database
from dict_backend import DictBackend, ListingBackend
from proofs.machine import BackendMachine
from server_contract import TABLES, emptied
from sitq import BaseBackend, SQLAlchemyBackend, SQLiteBackend
from sitq.testing.doors import AsyncDoor, Door, SyncDoor

DRIVERS = {"asyncpg": ("postgresql", "postgresql+asyncpg")}
DICTS = {"dict": DictBackend, "listing": ListingBackend}
KINDS = (*DICTS, "memory", "sqlite", "encrypted", *SERVERS, *DRIVERS)
DOORS: dict[str, Callable[[BaseBackend], Door]] = {"sync": SyncDoor, "async": AsyncDoor}
STEPS = 30


def check(
    kind: str, door: str, folder: Path, *, examples: int, seeded: int | None = None, shorten: bool = True
) -> None:
    """Drive a backend of this kind; without a seed it is driven in the same way each time.

    No deadlines: the machine may be busy. What was found is printed, not kept.
    """
    how = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        derandomize=seeded is None,
        deadline=None,
        database=None,
        phases=list(Phase) if shorten else [Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    with machine_for(kind, door, folder) as machine:
        run_state_machine_as_test(machine if seeded is None else seed(seeded)(machine), settings=how)


@contextmanager
def machine_for(kind: str, door: str, folder: Path) -> Iterator[type[BackendMachine]]:
    """The machine over a backend of this kind."""
    if kind in DICTS:

        class NewEachTime(BackendMachine):
            documented_verbs = True

            def make_door(self) -> Door:
                return DOORS[door](DICTS[kind]({}))

        yield NewEachTime
        return

    with opened(kind, folder) as (backend, empty):
        kept = DOORS[door](backend)

        class Emptied(BackendMachine):
            def make_door(self) -> Door:
                empty()
                return kept

            def put_away(self) -> None:
                """The next example goes on with it: to make the tables takes longer than to empty them."""

        try:
            yield Emptied
        finally:
            kept.close()


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[tuple[BaseBackend, Callable[[], object]]]:
    """A backend, and what empties its database."""
    server, driver = DRIVERS.get(kind, (kind, None))
    if server in SERVERS:
        with empty_database(server, folder) as url:
            with SQLAlchemyBackend(url) as backend:
                backend.initialize()
            yield SQLAlchemyBackend(url.set(drivername=driver or url.drivername)), lambda: emptied(url)
        return
    lite = sqlite_backend(kind, folder)

    def empty() -> None:
        with lite.engine.begin() as connection:
            for table in TABLES:
                connection.execute(text(f"DELETE FROM {table}"))

    lite.initialize()
    yield lite, empty


def sqlite_backend(kind: str, folder: Path) -> SQLiteBackend:
    if kind == "memory":
        return SQLiteBackend(":memory:")
    if kind == "encrypted":
        return SQLiteBackend(folder / "tasks.db", encryption_key="the passphrase of these tests", cipher="AES-256")
    return SQLiteBackend(folder / "tasks.db")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python tests/proofs model")
    parser.add_argument("--examples", type=int, default=200, help="sequences for each kind of backend and each door")
    parser.add_argument("--on", nargs="+", choices=KINDS, default=KINDS, help="kinds of backends")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="drive them as an earlier run did")
    given = parser.parse_args(arguments)
    for kind in given.on:
        for door in ("async",) if kind in DRIVERS else DOORS:
            began = time.monotonic()
            print(
                f"{kind} {door}: {given.examples} examples of {STEPS} steps, --seed {given.seed} ", end="", flush=True
            )
            try:
                with TemporaryDirectory() as folder:
                    check(kind, door, Path(folder), examples=given.examples, seeded=given.seed)
            except pytest.skip.Exception as exc:
                print(f"skipped: {exc}")
            else:
                print(f"passed in {time.monotonic() - began:.0f} s")
    return 0
