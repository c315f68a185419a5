"""Simulated workers keep the rules whatever goes wrong, and each rule that is taken away is missed.

This is the short form: the same seeds each time. In full: ``python tests/proofs simulation``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from proofs import sabotage
from proofs.judge import Violation
from proofs.simulated_store import Store
from proofs.simulation import digest, run_seed, store_for_seeds

pytestmark = pytest.mark.timeout(600)

SEEDS = range(60)
TRIED = range(1_000, 1_300)
"""Seeds of which some must notice that a rule is missing."""


def run_seeds(store: Store, seeds: range) -> None:
    for seed in seeds:
        run_seed(store, seed)


@pytest.fixture
def store() -> Iterator[Store]:
    with store_for_seeds() as store:
        yield store


def test_workers_keep_the_rules_whatever_goes_wrong(store: Store) -> None:
    run_seeds(store, SEEDS)


def test_a_seed_tells_the_same_story_again_and_in_another_process(store: Store) -> None:
    first, _, again = (digest(run_seed(store, seed)) for seed in (7, 8, 7))
    assert again == first
    command = [sys.executable, str(Path(__file__).parent / "proofs"), "simulation", "--seed", "7"]
    elsewhere = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "17"}
    )
    assert elsewhere.stdout.endswith(f"seed 7: no violation, {first}\n")


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (sabotage.without_token_check, "stale write|said True|should be"),
        (sabotage.without_heartbeat, "a live task was reaped"),
        (sabotage.with_deferred_begin, "had begun, and lost its transaction"),
        (sabotage.without_second_look, "which is not its own any more"),
    ],
)
def test_a_missing_rule_is_noticed(rule: Callable[[], AbstractContextManager[None]], complaint: str) -> None:
    with rule(), store_for_seeds() as store, pytest.raises(Violation, match=complaint) as caught:
        run_seeds(store, TRIED)
    assert any("again: python tests/proofs simulation --seed" in note for note in caught.value.__notes__)
