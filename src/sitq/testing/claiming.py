"""Claims: which tasks a worker gets, in which order, and that nobody else gets them."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from ..claims import Claim, Token
from ..ids import new_id
from ..models import Task, TaskStatus
from .doors import AT_ONCE, ContractCase, Door
from .records import new_row, request


class ClaimingContract(ContractCase):
    """``claim``."""

    def test_a_claim_holds_what_the_worker_needs(self, door: Door) -> None:
        row = new_row(args=b"args", kwargs=b"kwargs", priority=4, max_retries=2, timeout=1.5, options="{}")
        given = dict(row)
        door.enqueue([row])
        assert door.claim(request("worker-7")) == [
            Claim(**given, worker_id="worker-7", claim_count=1, retry_count=0, crash_count=0, errors=None)
        ]

    def test_a_claimed_task_runs(self, door: Door) -> None:
        door.enqueue([new_row()])
        before = door.backend.now()
        [claim] = door.claim(request("worker-7", lease=60.0))
        task = door.get_task(claim.id)
        assert claim.token == Token(task.id, task.worker_id, task.claim_count) == (claim.id, "worker-7", 1)
        assert task.status == TaskStatus.RUNNING
        assert task.scheduled is False
        assert timedelta(0) <= task.started_at - before < timedelta(seconds=30)
        assert task.lease_until - task.started_at == timedelta(seconds=60)

    def test_nothing_to_claim_is_no_error(self, door: Door) -> None:
        assert door.claim(request()) == []
        assert door.claim(request(queues=())) == []

    def test_a_task_is_claimed_once(self, door: Door) -> None:
        ids = door.enqueue([new_row()])
        assert [claim.id for claim in door.claim(request("worker-1"))] == ids
        assert door.claim(request("worker-2")) == []
        assert door.claim(request("worker-1")) == []

    def test_no_more_are_claimed_than_asked_for(self, door: Door) -> None:
        ids = door.enqueue([new_row() for _ in range(5)])
        assert [claim.id for claim in door.claim(request(limit=2))] == ids[:2]
        assert [claim.id for claim in door.claim(request(limit=1))] == ids[2:3]
        assert [claim.id for claim in door.claim(request(limit=100))] == ids[3:]

    def test_the_highest_priority_goes_first_and_equal_ones_in_the_order_of_their_ids(self, door: Door) -> None:
        priorities = [0, 5, -3, 5, 0, 2**31 - 1, -(2**31)]
        rows = [new_row(priority=priority) for priority in priorities]
        expected = [row["id"] for row in sorted(rows, key=lambda row: (-row["priority"], row["id"]))]
        door.enqueue(rows[::-1])
        assert [claim.id for claim in door.claim(request(limit=4))] == expected[:4]
        assert [claim.id for claim in door.claim(request())] == expected[4:]

    def test_queues_are_asked_in_the_order_given(self, door: Door) -> None:
        first, second, third = door.enqueue([new_row(queue="a", priority=9), new_row(queue="b"), new_row(queue="c")])
        assert [claim.id for claim in door.claim(request(queues=("b", "a"), limit=1))] == [second]
        assert [claim.id for claim in door.claim(request(queues=("b", "a"), limit=9))] == [first]
        assert door.get_task(third).status == TaskStatus.QUEUED

    def test_a_task_of_a_later_queue_fills_what_is_left(self, door: Door) -> None:
        ids = door.enqueue([new_row(queue=queue, priority=5 * (queue == "b")) for queue in "aabb"])
        assert [claim.id for claim in door.claim(request(queues=("a", "b"), limit=3))] == ids[:3]

    def test_a_future_task_is_not_claimed(self, door: Door) -> None:
        now = door.backend.now()
        past, _ = door.enqueue(
            [new_row(due_at=now - timedelta(hours=1)), new_row(due_at=now + timedelta(hours=1), priority=9)]
        )
        assert [claim.id for claim in door.claim(request())] == [past]
        assert door.claim(request()) == []

    def test_a_future_task_is_claimed_when_its_time_has_come_and_by_its_priority(self, door: Door) -> None:
        soon = door.backend.now() + timedelta(milliseconds=20)
        ids = door.enqueue([new_row(), new_row(due_at=soon, priority=9), new_row(due_at=soon, priority=-9)])
        _wait_until(door, soon)
        assert [claim.id for claim in door.claim(request())] == [ids[1], ids[0], ids[2]]

    @pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled"])
    def test_only_queued_tasks_are_claimed(self, door: Door, status: str) -> None:
        first, second = door.enqueue([new_row(), new_row()])
        door.update_task_status(first, status)
        assert [claim.id for claim in door.claim(request())] == [second]

    @pytest.mark.usefixtures("finds_stored")
    def test_a_stored_task_is_claimed_like_an_enqueued_one(self, door: Door) -> None:
        low, high = new_id(), new_id()
        door.store_task(Task(id=low, function=b"f"))
        [middle] = door.enqueue([new_row(priority=1)])
        door.store_task(Task(id=high, function=b"f", priority=2))
        assert [claim.id for claim in door.claim(request())] == [high, middle, low]

    def test_many_workers_at_once_share_the_tasks(self, door: Door) -> None:
        ids = door.enqueue([new_row() for _ in range(60)])
        requests = [request(f"worker-{number}", limit=10) for number in range(AT_ONCE)]
        shares = door.together("claim", requests)
        assert sorted(claim.id for share in shares for claim in share) == ids
        owners = [{claim.worker_id for claim in share} for share in shares]
        assert all(owner <= {each.worker_id} for each, owner in zip(requests, owners, strict=True))


def _wait_until(door: Door, moment: datetime) -> None:
    while (left := (moment - door.backend.now()).total_seconds()) > 0:
        time.sleep(left)
