"""The fault matrix in short: some faults, spread over the databases; ``python tests/proofs matrix`` does all.

Real processes are killed and stopped, and the checker judges what they left.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proofs import witness
from proofs.faults import FAULTS
from proofs.matrix import run_fault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills, stops and limits other processes")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (f"SIGKILL {witness.AFTER_EFFECT}", "sqlite"),
        (f"SIGKILL {witness.IN_COMPLETION}", "postgresql"),
        (f"SIGKILL {witness.IN_STATEMENT}", "postgresql"),
        ("SIGSTOP before completion", "sqlite"),
        ("disk full", "sqlite"),
        ("connections killed", "postgresql"),
        ("two reapers at once", "mariadb"),
    ],
)
def test_a_fault_breaks_no_promise(fault: str, kind: str, tmp_path: Path) -> None:
    found = run_fault(fault, kind, tmp_path)
    assert found.violations == []
    assert found.ran_again or fault in ("disk full", "connections killed")


def test_every_point_and_database_is_in_the_matrix() -> None:
    assert {f"SIGKILL {point}" for point in witness.POINTS} <= FAULTS.keys()
    assert {kind for _, kinds in FAULTS.values() for kind in kinds} == {"sqlite", "postgresql", "mariadb"}
