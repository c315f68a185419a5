"""The short form of ``python tests/proofs orders``."""

from __future__ import annotations

import sys

import pytest

from proofs.orders import prove

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="web processes are killed by a signal")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_order_and_its_task_are_committed_together_or_not_at_all(kind: str) -> None:
    evidence = prove(kind, kills=3, seed=5)
    assert evidence.wrong == []
    assert evidence.orders > 0
