"""The short form of ``python tests/proofs transactional``."""

from __future__ import annotations

import sys

import pytest

from proofs.transactional import prove

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are killed by a signal")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_each_effect_is_there_once_however_often_the_worker_is_killed(kind: str) -> None:
    evidence = prove(kind, kills=2, seed=1)
    assert evidence.wrong == []
    assert evidence.undone > 0
