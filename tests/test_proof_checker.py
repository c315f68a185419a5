"""The checker of the fault matrix fails on every kind of evidence that a promise was broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proofs.checker import violations
from proofs.evidence import Event, Evidence, Row

A, B = 1, 2
"""Two processes, with a worker each."""


def event(what: str, process: int = A, claim: int = 1, **fields: Any) -> Event:
    about = {"number": 7, "task": "t", "claim": claim, "worker": f"w{process}", "attempt": 1}
    return Event(what=what, process=process, **{**about, **fields})


def enqueued(**fields: Any) -> list[Event]:
    return [Event(what=what, number=7, task="t", **fields) for what in ("enqueueing", "enqueued")]


def claimed(process: int = A, claim: int = 1, **fields: Any) -> list[Event]:
    return [event(what, process, claim, **fields) for what in ("claimed", "began")]


def ended(process: int = A, claim: int = 1, *, held: bool = True, status: str = "completed") -> list[Event]:
    work = [event("effect", process, claim)] if status == "completed" else []
    ending = [event(what, process, claim, status=status) for what in ("finishing", "finished")]
    return [*work, event("ended", process, claim), ending[0], replace(ending[1], held=held)]


KILLED = event("killed")
ROW = Row(task="t", value=1)
CLEAN = [*enqueued(), *claimed(), *ended()]
SECOND = [*claimed(B, 2), *ended(B, 2)]
AFTER_A_KILL = [*enqueued(), *claimed(), KILLED, event("reaped", B), *SECOND]
STALE = [*enqueued(), *claimed(), event("reaped", B), *claimed(B, 2), *ended(A, held=False), *ended(B, 2)]
RETRIED = [
    *enqueued(max_retries=1),
    *claimed(),
    *ended(status="queued"),
    *claimed(claim=2, attempt=2),
    *ended(claim=2),
]
TWO = replace(ROW, claim=2, value=2)


@pytest.mark.parametrize(
    ("events", "rows", "lapses"),
    [
        (CLEAN, [ROW], False),
        (AFTER_A_KILL, [TWO], False),
        (STALE, [TWO], True),
        (RETRIED, [replace(TWO, retry_count=1)], False),
        ([*enqueued(ends="failed"), *claimed(), *ended(status="failed")], [replace(ROW, status="failed")], False),
        ([*CLEAN, event("rolled_back", task="gone")], [ROW], False),
        ([enqueued()[0], *CLEAN[2:]], [ROW], False),  # who enqueued died before it knew
        ([*CLEAN, *ended()[-2:]], [ROW], False),  # the same ending again, after an answer that was lost
    ],
    ids=["clean", "after a kill", "a stale worker", "retried", "failed", "rolled back", "in doubt", "twice the same"],
)
def test_a_run_that_kept_the_promises(events: list[Event], rows: list[Row], lapses: bool) -> None:
    assert violations(Evidence(events=events, rows=rows, lapses=lapses)) == []


@pytest.mark.parametrize(
    ("events", "rows", "lapses", "kind"),
    [
        (CLEAN, [], False, "lost: task t was committed"),
        (enqueued(), [replace(ROW, status="running", value=None)], False, "lost: task t had to end as completed"),
        (
            [each for each in CLEAN if each.what != "effect"],
            [ROW],
            False,
            "lost: task t is completed, and never did its work",
        ),
        ([*CLEAN, *claimed(task="gone", number=8), event("rolled_back", task="gone")], [ROW], False, "gone ran"),
        ([*CLEAN, event("rolled_back", task="gone")], [ROW, replace(ROW, task="gone")], False, "gone is in the"),
        (CLEAN, [ROW, replace(ROW, task="x", status="queued", value=None)], False, "nobody enqueued task x"),
        ([*enqueued(), *claimed(), *claimed(B), *ended()], [ROW], True, "claim 1 of task t belongs to 2 workers"),
        ([*enqueued(), *claimed(), event("began"), *ended()], [ROW], True, "claim 1 of task t ran 2 times"),
        (
            [*enqueued(), *claimed(), *claimed(B, 2), *ended(A), *ended(B, 2)],
            [TWO],
            True,
            "stale: claim 1 of task t wrote its ending after claim 2",
        ),
        (STALE, [replace(TWO, value=1)], True, "stale: task t bears the value of claim 1"),
        (
            [*STALE[:-2], event("seen", claim=2, status="completed"), *STALE[-2:]],
            [TWO],
            True,
            "stale: task t is completed, which its claim 2 has not written",
        ),
        (STALE, [ROW], True, "stale: task t was claimed 2 times, and its row says 1"),
        ([*CLEAN, *SECOND], [TWO], True, "endings: task t ended by claim 1, and again by claim 2"),
        ([*CLEAN, *claimed(B, 2)], [TWO], True, "endings: task t ended by claim 1, and was claimed again"),
        (CLEAN, [replace(ROW, status="failed")], False, "and the row says otherwise"),
        (STALE, [TWO], False, "overlap: task t began as claim 2 while claim 1 ran"),
        (RETRIED, [replace(TWO, retry_count=2)], False, "retried more often than max_retries=1"),
        (AFTER_A_KILL, [replace(TWO, crash_count=4)], False, "crashed 4 times, max_crashes=3"),
        (
            [*enqueued(), *claimed(), *ended(status="queued"), *SECOND],
            [TWO],
            False,
            "attempts: task t ran 2 times, interrupted 0 times",
        ),
        ([*AFTER_A_KILL, event("reaped")], [TWO], False, "reaps: task t was put back 2 times"),
    ],
)
def test_a_run_that_broke_one(events: list[Event], rows: list[Row], lapses: bool, kind: str) -> None:
    found = violations(Evidence(events=events, rows=rows, lapses=lapses))
    assert any(kind in violation for violation in found), found
