"""Where the time of one task goes: ``python -m benchmarks.anatomy``. Processor time, the least of several tries."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime

import sitq
from sitq.claims import Claim, ClaimRequest, Outcome
from sitq.execution import Execution
from sitq.serialization import CloudpickleSerializer, Payload

from .work import anoop, noop

TASKS, BATCH, TRIES = 1_000, 100, 7
REQUEST = ClaimRequest("worker", ("default",), BATCH, 60.0)


def table() -> str:
    """Measure, and return a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder, sitq.SQLiteBackend(f"{folder}/tasks.db") as backend:
        stages = anatomy(backend)
    lines = ["| a task on SQLite, NORMAL | µs of a processor |", "|---|---|"]
    return "\n".join(lines + [f"| {stage} | {microseconds:.1f} |" for stage, microseconds in stages.items()])


def anatomy(backend: sitq.SQLiteBackend) -> dict[str, float]:
    """Each stage of a task's life, in microseconds."""
    queue, serializer = sitq.SyncTaskQueue(backend), CloudpickleSerializer()
    stages = {
        "enqueue, one a commit": least(lambda: [queue.enqueue(noop, number) for number in range(TASKS)]),
        "enqueue in bulk": least(lambda: queue.enqueue_many(noop, [(number,) for number in range(TASKS)])),
    }
    claims: list[Claim] = []
    stages["claim 100"] = least(lambda: claims.extend(claim_all(backend)))
    stages["load a call"] = least(lambda: [load(serializer, claim) for claim in claims[:TASKS]])
    held = claims[-TASKS:]
    stages["run an async function"] = least(lambda: asyncio.run(run_all(held, serializer)))
    outcomes = [outcome_of(claim) for claim in claims]
    batches = iter(range(0, len(outcomes), TASKS))
    stages["finish 100"] = least(lambda: finish_all(backend, outcomes, next(batches)))
    return stages


def least(work: Callable[[], object]) -> float:
    """The least processor time of several tries, for one task."""
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times) / TASKS * 1e6


def claim_all(backend: sitq.SQLiteBackend) -> list[Claim]:
    """Claim tasks, 100 a commit."""
    return [claim for _ in range(0, TASKS, BATCH) for claim in backend.claim(REQUEST)]


def finish_all(backend: sitq.SQLiteBackend, outcomes: list[Outcome], start: int) -> None:
    """Complete tasks, 100 a commit."""
    for first in range(start, start + TASKS, BATCH):
        backend.finish(outcomes[first : first + BATCH])


def load(serializer: CloudpickleSerializer, claim: Claim) -> object:
    """Read the call out of a claim."""
    return serializer.load_call(Payload(claim.function, claim.args, claim.kwargs), task_id=claim.id)


def outcome_of(claim: Claim) -> Outcome:
    """What a worker makes of a claim whose function returned."""
    return Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=datetime.now(UTC), value=b"\x80\x05K\x01.")


async def run_all(claims: list[Claim], serializer: CloudpickleSerializer) -> None:
    """Run claims as a worker does, with an async function in each."""
    function = CloudpickleSerializer().dump_call(anoop, (1,), {}, task_id="").function
    execution = Execution(serializer, slots=len(claims), processes=1, now=lambda: datetime.now(UTC), on_end=bool)
    for claim in claims:
        execution.start(claim._replace(function=function))
    while execution.unfinished:  # noqa: ASYNC110  # an event would add to what is measured
        await asyncio.sleep(0)
    execution.shut_down()


if __name__ == "__main__":
    print(table())
