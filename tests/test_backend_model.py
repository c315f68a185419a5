"""Any sequence of verbs, by several workers and with a clock that is moved, does to a store what it does to a model.

This is the short form: the same few sequences each time. In full: ``python tests/proofs model``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs import model, sabotage

pytestmark = pytest.mark.timeout(900)  # to find the shortest example of a failure takes a while

SHORT = [
    ("dict", "sync", 30),
    ("listing", "sync", 15),
    ("memory", "sync", 30),
    ("memory", "async", 10),
    ("sqlite", "sync", 15),
    ("sqlite", "async", 15),
    ("encrypted", "sync", 5),
    ("encrypted", "async", 5),
    ("postgresql", "sync", 6),
    ("postgresql", "async", 4),
    ("asyncpg", "async", 4),
    ("mariadb", "sync", 6),
    ("mariadb", "async", 4),
]


@pytest.mark.parametrize(("kind", "door", "examples"), SHORT)
def test_a_store_does_what_the_model_does(kind: str, door: str, examples: int, tmp_path: Path) -> None:
    for package in {"encrypted": ["sqlcipher3"], "asyncpg": ["asyncpg"]}.get(kind, []):
        pytest.importorskip(package)
    model.check(kind, door, tmp_path, examples=examples)


def test_without_the_token_check_a_store_does_not_what_the_model_does(tmp_path: Path) -> None:
    with sabotage.without_token_check(), pytest.raises(AssertionError):
        model.check("memory", "sync", tmp_path, examples=100, shorten=False)
