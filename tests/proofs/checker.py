"""What must hold whatever died: pure functions from the evidence of a run to its violations, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .evidence import Event, Evidence

ENDED = ("completed", "failed", "cancelled")


def violations(evidence: Evidence) -> list[str]:
    """Everything that must not be, and is; empty for a run that kept the promises."""
    rules = (
        lost_enqueues,
        rolled_back_enqueues,
        owners_of_claims,
        stale_writes,
        unwritten_endings,
        endings,
        overlaps,
        attempts,
        reaps,
    )
    return [violation for rule in rules for violation in rule(evidence)]


def lost_enqueues(evidence: Evidence) -> Iterator[str]:
    """No committed enqueue is lost: each is in the database, has ended as it had to, and did its work."""
    rows = {row.task: row for row in evidence.rows}
    worked = {event.task for event in evidence.of("effect")}
    for event in evidence.of("enqueued"):
        row = rows.get(event.task or "")
        if row is None:
            yield f"lost: task {event.task} was committed, and is not in the database"
        elif row.status != event.ends:
            yield f"lost: task {row.task} had to end as {event.ends}, and is {row.status}"
        elif row.status == "completed" and row.task not in worked:
            yield f"lost: task {row.task} is completed, and never did its work"


def rolled_back_enqueues(evidence: Evidence) -> Iterator[str]:
    """No rolled-back enqueue runs, or is there at all; and nothing is there that nobody enqueued."""
    gone = {event.task for event in evidence.of("rolled_back")}
    wanted = {event.task for event in evidence.of("enqueued")}
    doubtful = {event.number for event in evidence.of("enqueueing")}
    numbers = {event.task: event.number for event in evidence.of("began")}
    for task in sorted({event.task for event in evidence.of("began") if event.task in gone}, key=str):
        yield f"rolled back: task {task} ran"
    for row in evidence.rows:
        if row.task in gone:
            yield f"rolled back: task {row.task} is in the database"
        elif row.task not in wanted and numbers.get(row.task) not in doubtful:
            yield f"rolled back: nobody enqueued task {row.task}"


def owners_of_claims(evidence: Evidence) -> Iterator[str]:
    """At most one live owner per claim: one worker bears its number, and runs its function once."""
    owners: dict[tuple[str | None, int | None], set[str | None]] = defaultdict(set)
    begun: dict[tuple[str | None, int | None], int] = defaultdict(int)
    for event in evidence.events:
        if event.what in ("claimed", "began", "finishing"):
            owners[event.task, event.claim].add(event.worker)
        if event.what == "began":
            begun[event.task, event.claim] += 1
    for (task, claim), workers in owners.items():
        if len(workers) > 1:
            yield f"owners: claim {claim} of task {task} belongs to {len(workers)} workers"
    for (task, claim), times in begun.items():
        if times > 1:
            yield f"owners: claim {claim} of task {task} ran {times} times"


def stale_writes(evidence: Evidence) -> Iterator[str]:
    """No stale write: an ending is written by the latest claim only, and the database bears what that one wrote."""
    latest: dict[str | None, int] = defaultdict(int)
    stale: set[tuple[str | None, int | None]] = set()
    for event in evidence.events:
        if event.what == "claimed":
            latest[event.task] = max(latest[event.task], event.claim or 0)
        elif event.what == "finishing" and (event.claim or 0) < latest[event.task]:
            stale.add((event.task, event.claim))
        elif event.what == "finished" and event.held and (event.task, event.claim) in stale:
            yield f"stale: claim {event.claim} of task {event.task} wrote its ending after claim {latest[event.task]}"
    for row in evidence.rows:
        if row.status == "completed" and row.value != row.claim:
            yield f"stale: task {row.task} bears the value of claim {row.value}, and claim {row.claim} completed it"
        if latest[row.task] > row.claim:
            yield f"stale: task {row.task} was claimed {latest[row.task]} times, and its row says {row.claim}"


def unwritten_endings(evidence: Evidence) -> Iterator[str]:
    """Whenever somebody looks, a completed task is one whose latest claim has tried to write just that."""
    tried: set[tuple[str | None, int | None]] = set()
    for event in evidence.events:
        if event.what == "finishing" and event.status == "completed":
            tried.add((event.task, event.claim))
        elif event.what == "seen" and event.status == "completed" and (event.task, event.claim) not in tried:
            yield f"stale: task {event.task} is completed, which its claim {event.claim} has not written"


def endings(evidence: Evidence) -> Iterator[str]:
    """A task ends once: after an ending that was written there is no other, and no claim."""
    ended: dict[str | None, Event] = {}
    for event in evidence.of("finished"):
        if not (event.held and event.status in ENDED):
            continue
        before = ended.setdefault(event.task, event)
        if (before.claim, before.status) != (event.claim, event.status):
            yield f"endings: task {event.task} ended by claim {before.claim}, and again by claim {event.claim}"
    for event in evidence.of("claimed"):
        if event.task in ended and (event.claim or 0) > (ended[event.task].claim or 0):
            yield f"endings: task {event.task} ended by claim {ended[event.task].claim}, and was claimed again"
    for row in evidence.rows:
        by = ended.get(row.task)
        if by is not None and (by.claim, by.status) != (row.claim, row.status):
            yield f"endings: task {row.task} was written as {by.status} by claim {by.claim}, and the row says otherwise"


def overlaps(evidence: Evidence) -> Iterator[str]:
    """Unless leases of live workers may lapse, a task runs again only after it ended, or its worker was killed."""
    if evidence.lapses:
        return
    running: dict[str | None, Event] = {}
    for event in evidence.events:
        if event.what == "began":
            before = running.get(event.task)
            if before is not None and before.process not in evidence.dead:
                yield f"overlap: task {event.task} began as claim {event.claim} while claim {before.claim} ran"
            running[event.task] = event
        elif event.what == "ended" and running.get(event.task, event).claim == event.claim:
            running.pop(event.task, None)


def attempts(evidence: Evidence) -> Iterator[str]:
    """Attempts stay within limits, and what was not interrupted runs no more often than its failures ask."""
    allowed = limits(evidence)
    begun: dict[str | None, list[Event]] = defaultdict(list)
    for event in evidence.of("began"):
        begun[event.task].append(event)
    written = {(event.task, event.claim) for event in evidence.of("finished") if event.held}
    for row in evidence.rows:
        limit = allowed.get(row.task, 0)
        if row.retry_count > limit or any((event.attempt or 1) > limit + 1 for event in begun[row.task]):
            yield f"attempts: task {row.task} was retried more often than max_retries={limit}"
        if evidence.max_crashes is not None and row.crash_count > evidence.max_crashes:
            yield f"attempts: task {row.task} crashed {row.crash_count} times, max_crashes={evidence.max_crashes}"
        interrupted = [event for event in begun[row.task] if (row.task, event.claim) not in written]
        if not evidence.lapses:
            interrupted = [event for event in interrupted if event.process in evidence.dead]
        if len(begun[row.task]) - len(interrupted) > limit + 1:
            yield f"attempts: task {row.task} ran {len(begun[row.task])} times, interrupted {len(interrupted)} times"


def limits(evidence: Evidence) -> dict[str | None, int]:
    """How many failures of each task may be retried; who enqueued may have died before it knew the id."""
    planned = {event.number: event.max_retries for event in evidence.of("enqueueing")}
    known = {event.task: event.number for what in ("began", "enqueued") for event in evidence.of(what)}
    return {task: planned.get(number, 0) for task, number in known.items()}


def reaps(evidence: Evidence) -> Iterator[str]:
    """A claim is put back by one reaper: not more often than there were claims that wrote no ending."""
    claimed: dict[str | None, set[int | None]] = defaultdict(set)
    for event in evidence.of("finished"):
        if event.held:
            claimed[event.task].add(event.claim)
    counts: dict[str | None, int] = defaultdict(int)
    for event in evidence.of("reaped"):
        counts[event.task] += 1
    rows = {row.task: row for row in evidence.rows}
    for task, times in counts.items():
        claims = rows[task].claim if task in rows else 0
        if times > claims - len(claimed[task]):
            yield f"reaps: task {task} was put back {times} times, of {claims} claims {len(claimed[task])} had ended"
