"""The soak in short; ``python tests/proofs soak`` runs 100,000 tasks and kills a worker every second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from databases import empty_database
from proofs.soak import Soak


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and reads their memory from /proc")
def test_two_thousand_tasks_through_workers_that_are_killed(tmp_path: Path) -> None:
    with empty_database("sqlite", tmp_path) as url:
        figures = Soak(url, tmp_path, tasks=2_000, every=0.5, mortals=1).run()
    assert figures.problems == []
    assert figures.kills >= 1
    assert max(figures.killed_memory) < 500  # megabytes: nothing runs away
