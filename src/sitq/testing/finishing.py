"""Endings: what each outcome writes, and that only the claim that holds writes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from ..claims import Claim, Outcome, Token
from ..models import TaskStatus
from ..wakeups import RESULTS
from .doors import ContractCase, Door
from .records import MOMENT, cancelled, columns_of, completed, failed, full_result, new_row, request, retried


class FinishingContract(ContractCase):
    """``finish`` and ``finish_and_claim``."""

    def test_a_completed_task_has_its_value(self, door: Door) -> None:
        claim = claimed(door)
        assert door.finish([completed(claim, b"\x00value")]) == [True]
        task, result = door.get_task(claim.id), door.get_result(claim.id)
        assert (task.status, task.completed_at, task.error_message) == ("completed", MOMENT, None)
        assert task.lease_until is None
        assert columns_of(result) == {
            "task_id": claim.id,
            "value": b"\x00value",
            "is_error": False,
            "error_message": None,
            "completed_at": MOMENT,
            "error_type": None,
            "traceback": None,
        }

    def test_a_failed_task_has_its_error(self, door: Door) -> None:
        claim = claimed(door)
        assert door.finish([failed(claim)]) == [True]
        task, result = door.get_task(claim.id), door.get_result(claim.id)
        assert (task.status, task.completed_at, task.error_message) == ("failed", MOMENT, "it went wrong")
        assert (task.errors, task.retry_count) == ('["first", "last"]', 3)
        assert (result.is_error, result.value, result.completed_at) == (True, None, MOMENT)
        assert (result.error_message, result.error_type) == ("it went wrong", "builtins.ValueError")
        assert result.traceback == "Traceback …"

    def test_a_cancelled_task_has_its_reason(self, door: Door) -> None:
        claim = claimed(door)
        assert door.finish([cancelled(claim)]) == [True]
        result = door.get_result(claim.id)
        assert door.get_task(claim.id).status == TaskStatus.CANCELLED
        assert (result.is_error, result.error_message) == (True, "no longer needed")
        assert result.error_type == "sitq.exceptions.TaskCancelledError"

    def test_an_ended_task_gives_back_its_unique_key(self, door: Door) -> None:
        claim = claimed(door, unique_key="order-17")
        assert door.get_task(claim.id).unique_key == "order-17"
        door.finish([completed(claim)])
        assert door.get_task(claim.id).unique_key is None

    def test_a_retried_task_waits_for_its_time_and_has_no_result(self, door: Door) -> None:
        claim = claimed(door)
        due_at = door.backend.now() + timedelta(hours=1)
        assert door.finish([retried(claim, due_at)]) == [True]
        task = door.get_task(claim.id)
        assert (task.status, task.due_at, task.completed_at) == ("queued", due_at, None)
        assert (task.retry_count, task.errors, task.error_message) == (1, '["first"]', "it went wrong")
        assert door.has_result(claim.id) is False
        assert door.claim(request()) == []
        assert door.next_due_at(["default"]) == due_at

    def test_a_retried_task_that_is_due_is_claimed_anew(self, door: Door) -> None:
        claim = claimed(door)
        door.finish([retried(claim, door.backend.now() - timedelta(seconds=1))])
        [again] = door.claim(request("worker-2"))
        assert again == claim._replace(worker_id="worker-2", claim_count=2, retry_count=1, errors='["first"]')
        assert door.finish([completed(again)]) == [True]
        assert door.get_task(claim.id).error_message is None

    def test_a_retry_keeps_the_unique_key(self, door: Door) -> None:
        claim = claimed(door, unique_key="order-17")
        door.finish([retried(claim, door.backend.now())])
        assert door.get_task(claim.id).unique_key == "order-17"

    @pytest.mark.parametrize("ending", [completed, failed, cancelled])
    def test_the_same_outcome_twice_is_the_same_as_once(self, door: Door, ending: Callable[[Claim], Outcome]) -> None:
        claim = claimed(door)
        outcome = ending(claim)
        assert door.finish([outcome]) == [True]
        task, result = columns_of(door.get_task(claim.id)), columns_of(door.get_result(claim.id))
        assert door.finish([outcome]) == [True]
        assert columns_of(door.get_task(claim.id)) == task
        assert columns_of(door.get_result(claim.id)) == result

    def test_a_retry_written_twice_is_the_same_as_once(self, door: Door) -> None:
        claim = claimed(door)
        outcome = retried(claim, door.backend.now())
        assert door.finish([outcome]) == [True]
        assert door.finish([outcome]) == [True]
        assert door.get_task(claim.id).retry_count == 1
        assert [again.id for again in door.claim(request())] == [claim.id]
        assert door.claim(request()) == []

    def test_another_outcome_of_the_same_claim_comes_too_late(self, door: Door) -> None:
        claim = claimed(door)
        assert door.finish([completed(claim)]) == [True]
        assert door.finish([failed(claim)]) == [False]
        assert door.get_task(claim.id).status == TaskStatus.COMPLETED
        assert door.get_result(claim.id).is_error is False

    def test_a_claim_that_was_taken_over_writes_nothing(self, door: Door) -> None:
        stale = claimed(door, lease=0.0)
        door.reap()
        assert door.finish([completed(stale, b"stale")]) == [False]
        [claim] = door.claim(request("worker-2"))
        before = columns_of(door.get_task(claim.id))
        assert door.finish([failed(stale)]) == [False]
        assert door.finish([retried(stale, MOMENT)]) == [False]
        assert columns_of(door.get_task(claim.id)) == before
        assert door.has_result(claim.id) is False
        assert door.finish([completed(claim, b"fresh")]) == [True]
        assert door.get_result(claim.id).value == b"fresh"

    def test_a_later_claim_by_the_same_worker_is_another(self, door: Door) -> None:
        stale = claimed(door, lease=0.0)
        door.reap()
        [claim] = door.claim(request(stale.worker_id))
        assert door.finish([completed(stale)]) == [False]
        assert door.finish([completed(claim)]) == [True]

    def test_a_claim_that_lapsed_and_that_nobody_took_still_holds(self, door: Door) -> None:
        assert door.finish([completed(claimed(door, lease=0.0))]) == [True]

    def test_a_task_that_was_cancelled_by_hand_stays_so(self, door: Door) -> None:
        claim = claimed(door)
        door.update_task_status(claim.id, "cancelled")
        assert door.finish([completed(claim)]) == [False]
        assert door.get_task(claim.id).status == TaskStatus.CANCELLED
        assert door.has_result(claim.id) is False

    def test_an_unknown_task_is_nobodys(self, door: Door) -> None:
        claim = claimed(door)._replace(id="unknown")
        assert door.finish([completed(claim)]) == [False]
        assert door.get_task("unknown") is None
        assert door.get_result("unknown") is None

    def test_a_forged_token_opens_nothing(self, door: Door) -> None:
        claim = claimed(door)
        for token in (Token(claim.id, "worker-2", 1), Token(claim.id, claim.worker_id, 2)):
            assert door.finish([Outcome(token=token, status=TaskStatus.COMPLETED, at=MOMENT)]) == [False]
        assert door.get_task(claim.id).status == TaskStatus.RUNNING

    def test_each_outcome_of_a_batch_stands_for_itself(self, door: Door) -> None:
        door.enqueue([new_row() for _ in range(5)])
        claims = door.claim(request(limit=5))
        door.update_task_status(claims[2].id, "cancelled")
        due_at = door.backend.now() + timedelta(hours=1)
        outcomes = [
            completed(claims[0], b"0"),
            failed(claims[1]),
            completed(claims[2]),
            retried(claims[3], due_at),
            completed(claims[4], b"4"),
            completed(claims[0], b"0"),
        ]
        assert door.finish(outcomes) == [True, True, False, True, True, True]
        ids = [claim.id for claim in claims]
        assert [door.get_task(task_id).status for task_id in ids] == [
            "completed",
            "failed",
            "cancelled",
            "queued",
            "completed",
        ]
        assert [door.has_result(task_id) for task_id in ids] == [True, True, False, False, True]
        assert [door.get_result(ids[number]).value for number in (0, 4)] == [b"0", b"4"]

    @pytest.mark.parametrize("ending", [completed, failed, cancelled])
    def test_a_result_that_was_there_before_gives_way(self, door: Door, ending: Callable[[Claim], Outcome]) -> None:
        claim, bystander = claimed(door), claimed(door)
        door.store_result(claim.id, full_result(claim.id))
        assert door.finish([ending(claim), completed(bystander)]) == [True, True]
        assert door.get_result(claim.id).error_message == ending(claim).error_message
        assert door.get_result(claim.id).value == ending(claim).value
        assert door.get_result(bystander.id).is_error is False

    def test_no_outcomes_are_no_work(self, door: Door) -> None:
        assert door.finish([]) == []
        assert door.finish_and_claim([], None) == ([], [])

    def test_a_round_writes_outcomes_and_claims_what_comes_next(self, door: Door) -> None:
        ids = door.enqueue([new_row() for _ in range(3)])
        held, [first] = door.finish_and_claim([], request(limit=1))
        assert (held, first.id) == ([], ids[0])
        held, [second] = door.finish_and_claim([completed(first)], request(limit=1))
        assert (held, second.id) == ([True], ids[1])
        assert door.finish_and_claim([completed(second), failed(first)], None) == ([True, False], [])
        assert door.get_statuses(ids) == {
            ids[0]: TaskStatus.COMPLETED,
            ids[1]: TaskStatus.COMPLETED,
            ids[2]: TaskStatus.QUEUED,
        }

    def test_endings_wake_who_waits_for_results(self, door: Door) -> None:
        first, second, third = claimed(door), claimed(door), claimed(door)
        with door.backend.wakeups.subscribe([RESULTS]) as subscription:
            door.finish([completed(first)])
            assert subscription.wait(5.0)
            door.finish_and_claim([completed(second)], None)
            assert subscription.wait(5.0)
            door.finish_and_claim([completed(third)], request())
            assert subscription.wait(5.0)


def claimed(door: Door, *, lease: float = 60.0, **columns: object) -> Claim:
    """Enqueue a task, and claim it."""
    door.enqueue([new_row(**columns)])
    [claim] = door.claim(request(lease=lease))
    assert isinstance(claim, Claim)
    return claim
