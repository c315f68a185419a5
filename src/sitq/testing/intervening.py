"""Reaching into the life of a task: unique keys, expiry, cancelling, putting back, progress."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ..claims import CancelResult, Claim, Progress, RetryResult, Token
from ..exceptions import DuplicateTaskError
from ..models import TaskStatus
from ..wakeups import CANCELLATIONS, RESULTS, queue_topic
from .doors import AT_ONCE, ContractCase, Door
from .records import columns_of, completed, failed, new_row, request, retried


class UniqueKeysContract(ContractCase):
    """``enqueue`` with ``unique_key`` and ``on_conflict``."""

    def test_a_held_key_keeps_the_task_that_stands(self, door: Door) -> None:
        [first] = door.enqueue([new_row(unique_key="order-17")])
        assert door.enqueue([new_row(unique_key="order-17", function=b"another")]) == [first]
        assert door.enqueue([new_row(unique_key="order-17", on_conflict="skip")]) == [first]
        [task] = door.list_tasks()
        assert (task.id, task.function, task.unique_key) == (first, b"the function", "order-17")

    def test_other_keys_and_none_are_free(self, door: Door) -> None:
        rows = [new_row(unique_key="a"), new_row(unique_key="b"), new_row(), new_row()]
        assert door.enqueue(rows) == [row["id"] for row in rows]
        assert len(door.claim(request(limit=10))) == 4

    def test_a_replaced_task_keeps_its_id_and_becomes_what_the_row_says(self, door: Door) -> None:
        old = new_row(unique_key="k", args=b"old", priority=5, timeout=3.0, options='{"unique_key": "k"}')
        [first] = door.enqueue([old])
        due_at = door.backend.now() + timedelta(hours=1)
        row = new_row(
            unique_key="k", on_conflict="replace", function=b"new", kwargs=b"new", queue="other", due_at=due_at
        )
        assert door.enqueue([row]) == [first]
        [task] = door.list_tasks()
        assert (task.id, task.function, task.args, task.kwargs) == (first, b"new", None, b"new")
        assert (task.queue, task.priority, task.timeout, task.due_at) == ("other", 0, None, due_at)
        assert (task.status, task.unique_key, task.options) == ("queued", "k", None)
        assert door.claim(request(queues=("default", "other"))) == []

    def test_a_replaced_task_starts_anew(self, door: Door) -> None:
        [first] = door.enqueue([new_row(unique_key="k", max_retries=9)])
        [claim] = door.claim(request())
        door.finish([retried(claim, door.backend.now() + timedelta(hours=1))])
        assert door.enqueue([new_row(unique_key="k", on_conflict="replace")]) == [first]
        task = door.get_task(first)
        assert (task.retry_count, task.errors, task.error_message, task.due_at) == (0, None, None, None)
        [again] = door.claim(request())
        assert (again.id, again.claim_count) == (first, 2)
        assert door.finish([completed(claim)]) == [False]

    @pytest.mark.parametrize("conflict", ["skip", "replace"])
    def test_a_running_task_stands(self, door: Door, conflict: str) -> None:
        [first] = door.enqueue([new_row(unique_key="k")])
        [claim] = door.claim(request())
        before = columns_of(door.get_task(first))
        assert door.enqueue([new_row(unique_key="k", on_conflict=conflict, function=b"another")]) == [first]
        assert columns_of(door.get_task(first)) == before
        assert door.finish([completed(claim)]) == [True]

    def test_a_duplicate_is_refused_where_that_is_asked_for_with_all_that_came_with_it(self, door: Door) -> None:
        [first] = door.enqueue([new_row(unique_key="k")])
        rows = [new_row(), new_row(unique_key="a"), new_row(unique_key="k"), new_row(unique_key="z")]
        with pytest.raises(DuplicateTaskError) as caught:
            door.enqueue([row | {"on_conflict": "raise"} for row in rows])
        assert caught.value.task_id == first
        assert [task.id for task in door.list_tasks()] == [first]
        assert door.enqueue([new_row(unique_key="a", on_conflict="raise")]) != [first]

    def test_the_same_key_twice_in_one_call_is_one_task(self, door: Door) -> None:
        rows = [new_row(unique_key="k", function=b"1"), new_row(unique_key="k", function=b"2"), new_row()]
        assert door.enqueue(rows) == [rows[0]["id"], rows[0]["id"], rows[2]["id"]]
        assert door.get_task(rows[0]["id"]).function == b"1"
        again = [new_row(unique_key="new", on_conflict="replace", function=name) for name in (b"1", b"2", b"3")]
        assert door.enqueue(again) == [again[0]["id"]] * 3
        assert door.get_task(again[0]["id"]).function == b"3"

    def test_a_key_is_free_again_when_its_task_has_ended(self, door: Door) -> None:
        for ending in (completed, failed):
            [task_id] = door.enqueue([new_row(unique_key="k", on_conflict="raise")])
            [claim] = door.claim(request())
            door.finish([ending(claim)])
            assert door.get_task(task_id).unique_key is None
        [cancelled] = door.enqueue([new_row(unique_key="k", on_conflict="raise")])
        door.cancel([cancelled])
        door.enqueue([new_row(unique_key="k", on_conflict="raise")])

    def test_of_callers_at_once_one_has_the_key_and_all_get_its_id(self, door: Door) -> None:
        rows = [[new_row(unique_key="k")] for _ in range(3 * AT_ONCE)]
        ids = door.together("enqueue", rows)
        assert len({task_id for [task_id] in ids}) == 1
        assert len(door.list_tasks()) == 1


class ExpiryContract(ContractCase):
    """``expires_at``, which a claim looks at."""

    def test_an_expired_task_is_cancelled_and_not_claimed(self, door: Door) -> None:
        past = door.backend.now() - timedelta(seconds=1)
        rows = [new_row(expires_at=past, unique_key="k"), new_row(expires_at=past + timedelta(hours=1)), new_row()]
        door.enqueue(rows)
        assert [claim.id for claim in door.claim(request(limit=2))] == [rows[1]["id"], rows[2]["id"]]
        task, result = door.get_task(rows[0]["id"]), door.get_result(rows[0]["id"])
        assert (task.status, task.unique_key, task.started_at) == ("cancelled", None, None)
        assert task.completed_at is not None
        assert result.is_error
        assert result.error_type == "sitq.exceptions.TaskCancelledError"
        assert task.error_message == result.error_message == "it expired: no worker began it in time"

    def test_expired_tasks_do_not_keep_a_claim_from_those_behind_them(self, door: Door) -> None:
        past = door.backend.now() - timedelta(seconds=1)
        door.enqueue([new_row(expires_at=past, priority=1) for _ in range(30)])
        [last] = door.enqueue([new_row()])
        assert [claim.id for claim in door.claim(request(limit=1))] == [last]
        assert len(door.list_tasks(status="cancelled")) == 30


class CancellingContract(ContractCase):
    """``cancel`` and ``cancel_requests``."""

    def test_a_queued_task_ends_at_once_with_the_reason(self, door: Door) -> None:
        soon, later = door.enqueue([new_row(unique_key="k"), new_row(due_at=door.backend.now() + timedelta(hours=1))])
        with door.backend.wakeups.subscribe([RESULTS]) as news:
            assert door.cancel([soon, later], "not needed") == {
                soon: CancelResult.CANCELLED,
                later: CancelResult.CANCELLED,
            }
            assert news.wait(5.0)
        for task_id in (soon, later):
            task, result = door.get_task(task_id), door.get_result(task_id)
            assert (task.status, task.error_message, task.unique_key) == ("cancelled", "not needed", None)
            assert (result.is_error, result.error_message) == (True, "not needed")
            assert result.error_type == "sitq.exceptions.TaskCancelledError"
            assert task.completed_at == result.completed_at
        assert door.claim(request()) == []

    def test_a_reason_need_not_be_given(self, door: Door) -> None:
        [task_id] = door.enqueue([new_row()])
        assert door.cancel([task_id]) == {task_id: "cancelled"}
        assert door.get_result(task_id).error_message is None

    def test_a_running_task_is_asked_for_and_goes_on(self, door: Door) -> None:
        door.enqueue([new_row(), new_row()])
        first, second = door.claim(request())
        assert door.cancel_requests([first.token, second.token]) == {}
        with door.backend.wakeups.subscribe([CANCELLATIONS]) as news:
            assert door.cancel([first.id], "not needed") == {first.id: CancelResult.REQUESTED}
            assert news.wait(5.0)
        assert door.cancel_requests([first.token, second.token]) == {first.token: "not needed"}
        assert (door.get_task(first.id).status, door.get_task(first.id).cancel_requested) == ("running", True)
        assert door.finish([completed(first)]) == [True]
        assert door.get_task(first.id).error_message is None
        assert door.cancel_requests([first.token, second.token]) == {}

    def test_only_the_claim_that_holds_is_told(self, door: Door) -> None:
        claim = claimed(door)
        door.cancel([claim.id])
        others = [Token(claim.id, "worker-2", 1), Token(claim.id, claim.worker_id, 2), Token("unknown", "", 1)]
        assert door.cancel_requests(others) == {}
        assert door.cancel_requests([*others, claim.token]) == {claim.token: None}

    def test_a_task_that_was_asked_to_end_is_not_claimed_again(self, door: Door) -> None:
        put_back, reaped = claimed(door, max_retries=5), claimed(door, lease=0.0)
        door.cancel([put_back.id, reaped.id])
        door.finish([retried(put_back, door.backend.now() - timedelta(seconds=1))])
        door.reap()
        while door.claim(request("worker-2")):
            pass
        door.claim(request("worker-2"))
        for claim in (put_back, reaped):
            assert door.get_task(claim.id).status == TaskStatus.CANCELLED
            assert "cancelled while" in door.get_result(claim.id).error_message

    def test_what_has_ended_or_never_was_is_said_to_be_so(self, door: Door) -> None:
        claim = claimed(door)
        door.finish([completed(claim)])
        before = columns_of(door.get_task(claim.id))
        assert door.cancel([claim.id, "unknown"]) == {
            claim.id: CancelResult.ENDED,
            "unknown": CancelResult.UNKNOWN,
        }
        assert columns_of(door.get_task(claim.id)) == before
        assert door.cancel([]) == {}

    def test_cancelling_twice_is_the_same_as_once(self, door: Door) -> None:
        [task_id] = door.enqueue([new_row()])
        door.cancel([task_id], "first")
        assert door.cancel([task_id], "second") == {task_id: CancelResult.ENDED}
        assert door.get_result(task_id).error_message == "first"


class RetryingContract(ContractCase):
    """``retry``: ended tasks are put back."""

    def test_an_ended_task_is_as_it_was_enqueued(self, door: Door) -> None:
        claim = claimed(door, max_retries=3, expires_at=door.backend.now() + timedelta(hours=1), priority=4)
        door.write_progress([Progress(claim.token, 0.5, "half")])
        door.finish([failed(claim)])
        with door.backend.wakeups.subscribe([queue_topic("default")]) as news:
            assert door.retry([claim.id]) == {claim.id: RetryResult.QUEUED}
            assert news.wait(5.0)
        task = door.get_task(claim.id)
        assert (task.status, task.retry_count, task.max_retries, task.priority) == ("queued", 0, 3, 4)
        assert (task.started_at, task.completed_at, task.error_message, task.expires_at) == (None, None, None, None)
        assert (task.progress, task.progress_note) == (None, None)
        assert task.errors == '["first", "last"]'
        [again] = door.claim(request("worker-2"))
        assert (again.id, again.retry_count, again.claim_count) == (claim.id, 0, 2)
        assert door.finish([failed(claim)]) == [False]
        assert door.finish([completed(again, b"at last")]) == [True]
        assert door.get_result(claim.id).value == b"at last"

    def test_a_cancelled_and_a_completed_task_too(self, door: Door) -> None:
        done, cancelled = claimed(door), new_row()
        door.finish([completed(done)])
        door.enqueue([cancelled])
        door.cancel([cancelled["id"]])
        assert set(door.retry([done.id, cancelled["id"]]).values()) == {RetryResult.QUEUED}
        assert {claim.id for claim in door.claim(request())} == {done.id, cancelled["id"]}

    def test_what_has_not_ended_or_never_was_is_left_alone(self, door: Door) -> None:
        running = claimed(door)
        [queued] = door.enqueue([new_row()])
        assert door.retry([running.id, queued, "unknown"]) == {
            running.id: RetryResult.UNFINISHED,
            queued: RetryResult.UNFINISHED,
            "unknown": RetryResult.UNKNOWN,
        }
        assert door.finish([completed(running)]) == [True]

    def test_a_key_is_held_again_if_it_is_free(self, door: Door) -> None:
        claim = claimed(door, unique_key="k", options='{"unique_key": "k"}')
        door.finish([failed(claim)])
        [other] = door.enqueue([new_row(unique_key="k")])
        assert door.retry([claim.id]) == {claim.id: RetryResult.DUPLICATE}
        assert door.get_task(claim.id).status == TaskStatus.FAILED
        assert door.get_result(claim.id).error_message == "it went wrong"
        door.cancel([other])
        assert door.retry([claim.id]) == {claim.id: RetryResult.QUEUED}
        assert door.get_task(claim.id).unique_key == "k"
        assert door.enqueue([new_row(unique_key="k")]) == [claim.id]


class ProgressContract(ContractCase):
    """``write_progress``."""

    def test_the_latest_word_is_kept(self, door: Door) -> None:
        claim = claimed(door)
        assert door.write_progress([Progress(claim.token, 0.25, "begun")]) == [True]
        assert door.write_progress([Progress(claim.token, 0.5, None)]) == [True]
        task = door.get_task(claim.id)
        assert (task.progress, task.progress_note, task.status) == (0.5, None, "running")
        assert door.write_progress([]) == []

    def test_a_claim_that_does_not_hold_says_nothing(self, door: Door) -> None:
        stale, held, ended = claimed(door, lease=0.0), claimed(door), claimed(door)
        door.reap()
        door.finish([completed(ended)])
        reports = [Progress(claim.token, 0.5, "late") for claim in (stale, held, ended)]
        assert door.write_progress(reports) == [False, True, False]
        assert [door.get_task(claim.id).progress for claim in (stale, held, ended)] == [None, 0.5, None]


class InterveningContract(UniqueKeysContract, ExpiryContract, CancellingContract, RetryingContract, ProgressContract):
    """All of it."""


def claimed(door: Door, *, lease: float = 60.0, **columns: object) -> Claim:
    """Enqueue a task, and claim it."""
    door.enqueue([new_row(**columns)])
    [claim] = door.claim(request(lease=lease))
    assert isinstance(claim, Claim)
    return claim
