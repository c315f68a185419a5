"""A worker's steps, one at a time, for tests that decide themselves when a task runs and ends."""

from __future__ import annotations

from sitq.backends.base import BaseBackend
from sitq.claims import Claim, ClaimRequest, Outcome
from sitq.failures import describe
from sitq.models import TaskStatus
from sitq.serialization import CloudpickleSerializer, Payload, Serializer


def claim_one(backend: BaseBackend, queue: str = "default") -> Claim | None:
    claims = backend.claim(ClaimRequest("by hand", (queue,), 1, 30.0))
    return claims[0] if claims else None


def run_one(backend: BaseBackend, queue: str = "default", serializer: Serializer | None = None) -> str | None:
    """Claim a task, run it, write how it ended; return its id, or ``None`` if none is due."""
    claim = claim_one(backend, queue)
    if claim is None:
        return None
    serializer = serializer or CloudpickleSerializer()
    function, args, kwargs = serializer.load_call(Payload(claim.function, claim.args, claim.kwargs), task_id=claim.id)
    try:
        value = serializer.dump_result(function(*args, **kwargs), task_id=claim.id)
    except Exception as exc:
        error = describe(exc)
        outcome = Outcome(
            token=claim.token,
            status=TaskStatus.FAILED,
            at=backend.now(),
            error_type=error.type,
            error_message=error.message,
            traceback=error.traceback,
        )
    else:
        outcome = Outcome(token=claim.token, status=TaskStatus.COMPLETED, at=backend.now(), value=value)
    assert backend.finish([outcome]) == [True]
    return claim.id


def run_all(backend: BaseBackend, queue: str = "default") -> list[str]:
    """Run what is due, until nothing is; return the ids in the order in which they ran."""
    ran = []
    while task_id := run_one(backend, queue):
        ran.append(task_id)
    return ran


def cancel_one(backend: BaseBackend, reason: str) -> str:
    claim = claim_one(backend)
    assert claim is not None
    outcome = Outcome(
        token=claim.token,
        status=TaskStatus.CANCELLED,
        at=backend.now(),
        error_message=reason,
        error_type="sitq.exceptions.TaskCancelledError",
    )
    assert backend.finish([outcome]) == [True]
    return claim.id
