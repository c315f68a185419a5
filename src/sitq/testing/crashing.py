"""Crashes: what becomes of the tasks of a worker that died, and how those run that may have been the reason."""

from __future__ import annotations

import json
from datetime import timedelta

from ..claims import Claim, IsolatedTasks
from ..models import TaskStatus
from ..wakeups import RESULTS, queue_topic
from .clock import MovableClock
from .doors import ContractCase, Door
from .finishing import claimed
from .records import LONG, completed, new_row, request, retried

CRASHED = "sitq.exceptions.TaskCrashedError"


def ids(claims: list[Claim]) -> list[str]:
    """The ids of some claims."""
    return [claim.id for claim in claims]


def crash(door: Door, claims: list[Claim]) -> None:
    """Let the worker of some claims die."""
    assert sorted(door.reap_workers([claims[0].worker_id])) == sorted(ids(claims))


class CrashingContract(ContractCase):
    """``reap_workers``, ``isolated_waiting``, and ``isolated`` in a request and a claim."""

    def test_tasks_of_dead_workers_are_put_back_whatever_their_leases_say(self, door: Door) -> None:
        door.enqueue([new_row() for _ in range(3)])
        [live] = door.claim(request("live", limit=1))
        dead = door.claim(request("dead", lease=LONG))
        assert sorted(door.reap_workers(["dead", "unknown"])) == sorted(ids(dead))
        assert door.reap_workers(["dead", "unknown"]) == []
        assert door.reap_workers([]) == []
        assert door.finish([completed(live), completed(dead[0])]) == [True, False]

    def test_after_a_crash_each_task_is_claimed_alone(self, door: Door) -> None:
        door.enqueue([new_row() for _ in range(3)])
        crashed = door.claim(request("dead"))
        crash(door, crashed)
        again = [door.claim(request()) for _ in range(4)]
        assert sorted(len(claims) for claims in again) == [0, 1, 1, 1]
        assert {claim.id for claims in again for claim in claims} == set(ids(crashed))
        assert all(claim.isolated for claims in again for claim in claims)

    def test_a_busy_worker_passes_over_tasks_that_must_run_alone(self, door: Door) -> None:
        crash(door, [claimed(door)])
        [other] = door.enqueue([new_row()])
        assert ids(door.claim(request(isolated=IsolatedTasks.NONE))) == [other]
        assert door.claim(request(isolated=IsolatedTasks.NONE)) == []

    def test_an_empty_worker_takes_them_last_or_first(self, door: Door) -> None:
        door.enqueue([new_row(), new_row()])
        first, second = door.claim(request("dead"))
        crash(door, [first, second])
        others = door.enqueue([new_row(), new_row()])
        [alone] = door.claim(request(isolated=IsolatedTasks.FIRST))
        assert alone.isolated
        assert ids(door.claim(request(isolated=IsolatedTasks.LAST))) == others
        [alone_too] = door.claim(request(isolated=IsolatedTasks.LAST))
        assert {alone.id, alone_too.id} == {first.id, second.id}
        assert door.claim(request(isolated=IsolatedTasks.FIRST)) == []

    def test_they_are_given_in_the_order_in_which_they_were_put_back(self, door: Door) -> None:
        clock = MovableClock()
        door.backend.use_clock(clock)
        door.enqueue([new_row(queue="a", priority=1), new_row(queue="b"), new_row(queue="b", priority=2)])
        latest, *together = [door.claim(request(f"dead-{queue}", queues=[queue])) for queue in "ab"]
        crash(door, together[0])
        clock.move(1.0)
        crash(door, latest)
        given = [claim.id for _ in range(3) for claim in door.claim(request(queues=["a", "b"]))]
        assert (sorted(given[:2]), given[2:]) == (sorted(ids(together[0])), ids(latest))

    def test_one_that_is_not_to_run_any_more_ends_and_the_next_is_given(self, door: Door) -> None:
        door.enqueue([new_row(expires_at=door.backend.now() + timedelta(hours=1)), new_row()])
        clock = MovableClock()
        door.backend.use_clock(clock)
        expired, other = door.claim(request("dead"))
        crash(door, [expired, other])
        clock.move(timedelta(hours=2))
        assert ids(door.claim(request())) == [other.id]
        assert door.get_task(expired.id).status == TaskStatus.CANCELLED

    def test_without_such_tasks_first_gives_the_others(self, door: Door) -> None:
        others = door.enqueue([new_row(), new_row()])
        claims = door.claim(request(isolated=IsolatedTasks.FIRST))
        assert ids(claims) == others
        assert not any(claim.isolated for claim in claims)

    def test_it_is_said_whether_such_tasks_wait(self, door: Door) -> None:
        door.enqueue([new_row(queue="a")])
        assert not door.isolated_waiting(["a"])
        crash(door, door.claim(request(queues=["a"])))
        assert door.isolated_waiting(["b", "a"])
        assert not door.isolated_waiting(["b"])
        door.pause_queue("a")
        assert not door.isolated_waiting(["a"])
        assert door.claim(request(queues=["a"])) == []
        door.resume_queue("a")
        assert len(door.claim(request(queues=["a"]))) == 1
        assert not door.isolated_waiting(["a"])

    def test_such_a_task_is_no_future_task(self, door: Door) -> None:
        crash(door, [claimed(door)])
        assert door.next_due_at(["default"]) is None

    def test_a_retry_after_it_ran_alone_runs_beside_others(self, door: Door) -> None:
        crash(door, [claimed(door)])
        [alone] = door.claim(request())
        assert door.finish([retried(alone, door.backend.now())]) == [True]
        [again] = door.claim(request(isolated=IsolatedTasks.NONE))
        assert not again.isolated

    def test_only_crashes_of_a_task_that_ran_alone_count(self, door: Door) -> None:
        task_id = claimed(door, lease=0.0).id
        counts = []
        for _ in range(3):
            assert door.reap() == [task_id]
            counts.append(door.get_task(task_id).crash_count)
            door.claim(request(lease=0.0))
        assert counts == [0, 1, 2]

    def test_a_task_that_crashed_too_often_fails_and_says_so(self, door: Door) -> None:
        door.enqueue([new_row(options=json.dumps({"max_crashes": 1}), unique_key="only-one")])
        crash(door, door.claim(request("dead-1")))
        [claim] = door.claim(request("dead-2"))
        with door.backend.wakeups.subscribe([RESULTS]) as subscription:
            crash(door, [claim])
            assert subscription.wait(5.0)
        task, result = door.get_task(claim.id), door.get_result(claim.id)
        assert (task.status, task.crash_count, task.unique_key) == (TaskStatus.FAILED, 1, None)
        assert task.completed_at is not None
        assert (result.is_error, result.error_type) == (True, CRASHED)
        assert result.error_message == task.error_message == "its worker died once while it ran alone (max_crashes=1)"
        assert door.claim(request()) == []
        assert door.finish([completed(claim)]) == [False]

    def test_a_task_may_fail_at_its_first_crash(self, door: Door) -> None:
        door.enqueue([new_row(options=json.dumps({"on_crash": "fail"}))])
        [claim] = door.claim(request("dead"))
        crash(door, [claim])
        assert door.get_task(claim.id).status == TaskStatus.FAILED
        assert "on_crash" in door.get_result(claim.id).error_message

    def test_the_history_tells_of_each_crash(self, door: Door) -> None:
        claim = claimed(door)
        crash(door, [claim])
        crash(door, door.claim(request("dead")))
        history = json.loads(door.get_task(claim.id).errors)
        assert [(entry["attempt"], entry["type"]) for entry in history] == [(1, CRASHED), (1, CRASHED)]

    def test_reaping_a_dead_worker_wakes_who_waits_for_the_queue(self, door: Door) -> None:
        claim = claimed(door)
        with door.backend.wakeups.subscribe([queue_topic("default")]) as subscription:
            crash(door, [claim])
            assert subscription.wait(5.0)
