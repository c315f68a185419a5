"""The command line of proofs that kill processes over each kind of database, and what they print."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from databases import KINDS


class Evidence(Protocol):
    """What was found after all kills; its text is for the report."""

    wrong: list[str]


def run(name: str, prove: Callable[[str, int, int], Evidence], arguments: list[str]) -> int:
    """Prove it over each kind of database, by so many kills with one seed; return the exit code."""
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--on", choices=KINDS, action="append")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args(arguments)
    failed = False
    with suppress(KeyboardInterrupt):
        for kind in options.on or KINDS:
            evidence = prove(kind, options.kills, options.seed)
            told = f"{kind}: {options.kills} kills (seed {options.seed}), {evidence}"
            print(told, *evidence.wrong[:10], sep="\n  ", flush=True)
            failed = failed or bool(evidence.wrong)
    return int(failed)
