"""Leases: extended by their worker, and reaped when they have lapsed."""

from __future__ import annotations

from ..claims import Token
from ..models import TaskStatus
from ..wakeups import queue_topic
from .doors import ContractCase, Door
from .finishing import claimed
from .records import LONG, completed, new_row, request


class LeasingContract(ContractCase):
    """``extend`` and ``reap``."""

    def test_a_lapsed_task_is_put_back_and_claimed_by_another(self, door: Door) -> None:
        stale = claimed(door, lease=0.0)
        assert door.reap() == [stale.id]
        task = door.get_task(stale.id)
        assert (task.status, task.worker_id, task.lease_until) == ("queued", None, None)
        [claim] = door.claim(request("worker-2"))
        assert claim.token == Token(stale.id, "worker-2", 2)
        assert (claim.function, claim.retry_count) == (stale.function, stale.retry_count)

    def test_only_lapsed_tasks_are_reaped_and_each_once(self, door: Door) -> None:
        door.enqueue([new_row() for _ in range(4)])
        lapsed = door.claim(request(limit=2, lease=0.0))
        live = door.claim(request(limit=1))
        assert sorted(door.reap()) == [claim.id for claim in lapsed]
        assert door.reap() == []
        assert door.get_task(live[0].id).status == TaskStatus.RUNNING
        assert door.finish([completed(live[0])]) == [True]

    def test_an_ended_task_is_not_reaped(self, door: Door) -> None:
        claim = claimed(door, lease=0.0)
        door.finish([completed(claim)])
        assert door.reap() == []
        assert door.get_task(claim.id).status == TaskStatus.COMPLETED

    def test_a_task_that_was_cancelled_by_hand_is_not_reaped(self, door: Door) -> None:
        claim = claimed(door, lease=0.0)
        door.update_task_status(claim.id, "cancelled")
        assert door.reap() == []
        assert door.get_task(claim.id).status == TaskStatus.CANCELLED

    def test_a_task_that_was_put_back_by_hand_is_claimed_again(self, door: Door) -> None:
        running, ended = door.enqueue([new_row(), new_row()])
        _, claim = door.claim(request())
        door.finish([completed(claim)])
        for task_id in (running, ended):
            door.update_task_status(task_id, "queued")
        door.reap()
        assert [again.id for again in door.claim(request())] == [running, ended]

    def test_an_extended_lease_does_not_lapse(self, door: Door) -> None:
        claim = claimed(door, lease=0.0)
        assert door.extend([claim.token], LONG) == [True]
        assert door.reap() == []
        assert door.finish([completed(claim)]) == [True]

    def test_a_lease_can_be_given_up(self, door: Door) -> None:
        claim = claimed(door)
        assert door.extend([claim.token], 0.0) == [True]
        assert door.reap() == [claim.id]

    def test_only_claims_that_hold_are_extended(self, door: Door) -> None:
        door.enqueue([new_row() for _ in range(4)])
        ended, stopped, stale, held = door.claim(request(limit=4, lease=0.0))
        door.finish([completed(ended)])
        door.update_task_status(stopped.id, "cancelled")
        door.extend([held.token], LONG)
        door.reap()
        unknown = held._replace(id="unknown")
        tokens = [claim.token for claim in (held, ended, stopped, stale, unknown, held)]
        assert door.extend(tokens, LONG) == [True, False, False, False, False, True]
        assert door.extend([], LONG) == []
        assert [claim.id for claim in door.claim(request())] == [stale.id]

    def test_an_earlier_claim_of_the_same_worker_does_not_hold(self, door: Door) -> None:
        stale = claimed(door, lease=0.0)
        door.reap()
        [again] = door.claim(request(stale.worker_id))
        assert door.extend([stale.token], LONG) == [False]
        assert door.extend([stale.token, again.token], LONG) == [False, True]
        assert door.finish([completed(stale), completed(again)]) == [False, True]

    def test_reaping_wakes_who_waits_for_the_queue(self, door: Door) -> None:
        claimed(door, lease=0.0)
        with door.backend.wakeups.subscribe([queue_topic("default")]) as subscription:
            door.reap()
            assert subscription.wait(5.0)
