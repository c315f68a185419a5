"""What a queue needs: tasks go in, are looked up and listed, and whole queues are paused."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from ..exceptions import SitqError
from ..ids import new_id
from ..models import TaskMixin, TaskStatus
from ..wakeups import queue_topic
from .doors import AT_ONCE, ContractCase, Door
from .records import EVERY_BYTE, MOMENT, completed, full_result, full_task, new_row, request


class QueueingContract(ContractCase):
    """``enqueue``, ``get_statuses``, ``list_tasks``, ``list_all_tasks``, and the three verbs of pausing."""

    def test_enqueued_tasks_wait_with_the_columns_of_their_rows(self, door: Door) -> None:
        rows = [
            new_row(),
            new_row(args=EVERY_BYTE, kwargs=b"", priority=5, queue="emails", max_retries=2),
            new_row(due_at=MOMENT, expires_at=MOMENT + timedelta(days=1), timeout=1.5, unique_key="k", options="{}"),
        ]
        given = [dict(row) for row in rows]
        assert door.enqueue(rows) == [row["id"] for row in given]
        for row in given:
            task = door.get_task(row["id"])
            assert {column: getattr(task, column) for column in row} == row
            assert task.status == TaskStatus.QUEUED
            assert (task.retry_count, task.claim_count, task.worker_id) == (0, 0, None)

    def test_only_tasks_for_later_are_scheduled(self, door: Door) -> None:
        now = door.backend.now()
        rows = [new_row(), new_row(due_at=now - timedelta(hours=1)), new_row(due_at=now + timedelta(hours=1))]
        ids = door.enqueue(rows)
        assert [door.get_task(task_id).scheduled for task_id in ids] == [False, False, True]

    def test_enqueueing_nothing_is_nothing(self, door: Door) -> None:
        assert door.enqueue([]) == []
        assert door.list_all_tasks() == []

    def test_either_all_rows_are_enqueued_or_none(self, door: Door) -> None:
        broken = new_row()
        del broken["function"]
        with pytest.raises((SitqError, TypeError)):
            door.enqueue([new_row(), broken, new_row()])
        assert door.claim(request()) == []

    def test_nothing_is_lost_when_many_enqueue_at_once(self, door: Door) -> None:
        batches = [[new_row() for _ in range(5)] for _ in range(4 * AT_ONCE)]
        expected = [[row["id"] for row in batch] for batch in batches]
        assert door.together("enqueue", batches) == expected
        assert door.list_all_tasks() == sorted(task_id for ids in expected for task_id in ids)

    def test_statuses_leave_out_unknown_ids(self, door: Door) -> None:
        waiting, ended = door.enqueue([new_row(), new_row()])
        door.update_task_status(ended, "failed")
        assert door.get_statuses([]) == {}
        assert door.get_statuses([ended, "unknown", waiting]) == {
            waiting: TaskStatus.QUEUED,
            ended: TaskStatus.FAILED,
        }

    def test_all_tasks_are_listed_from_the_oldest_on(self, door: Door) -> None:
        ids = door.enqueue([new_row(priority=priority) for priority in (0, 9, -9)])
        later = door.enqueue([new_row(queue="other")])
        door.update_task_status(ids[1], "cancelled")
        assert door.list_all_tasks() == ids + later

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({}, [3, 2, 1, 0]),
            ({"limit": 2}, [3, 2]),
            ({"status": "queued"}, [3, 2, 1]),
            ({"status": "failed"}, [0]),
            ({"queue": "emails"}, [3, 1]),
            ({"name": "shop.send"}, [2, 1]),
            ({"name": "shop.send", "queue": "emails", "status": "queued"}, [1]),
            ({"queue": "nowhere"}, []),
        ],
    )
    def test_tasks_are_listed_by_what_they_are(self, door: Door, wanted: dict[str, Any], found: list[int]) -> None:
        rows = [
            new_row(),
            new_row(queue="emails", name="shop.send"),
            new_row(name="shop.send"),
            new_row(queue="emails"),
        ]
        ids = door.enqueue(rows)
        door.update_task_status(ids[0], "failed")
        tasks = door.list_tasks(**wanted)
        assert all(isinstance(task, TaskMixin) for task in tasks)
        assert [ids.index(task.id) for task in tasks] == found

    @pytest.mark.usefixtures("finds_stored")
    def test_stored_tasks_are_listed_beside_enqueued_ones(self, door: Door) -> None:
        [first] = door.enqueue([new_row()])
        task = full_task()
        stored = task.id
        door.store_task(task)
        [last] = door.enqueue([new_row()])
        assert door.list_all_tasks() == [first, stored, last]
        assert [task.id for task in door.list_tasks(status="failed")] == [stored]

    @pytest.mark.usefixtures("finds_stored")
    def test_tasks_move_house_and_may_do_so_twice(self, door: Door) -> None:
        """The documented migration loop, from a backend into itself."""
        ids = door.enqueue([new_row(), new_row()])
        door.store_result(ids[0], full_result(ids[0]))
        for task_id in door.list_all_tasks() * 2:
            door.store_task(door.get_task(task_id))
            if door.has_result(task_id):
                door.store_result(task_id, door.get_result(task_id))
        assert door.list_all_tasks() == ids
        assert [claim.id for claim in door.claim(request())] == ids

    def test_a_paused_queue_gives_no_tasks_until_it_is_resumed(self, door: Door) -> None:
        ids = door.enqueue([new_row(queue="emails"), new_row()])
        both = request(queues=("emails", "default"))
        door.pause_queue("emails")
        assert [claim.id for claim in door.claim(both)] == [ids[1]]
        ids += door.enqueue([new_row(queue="emails")])
        assert door.claim(both) == []
        door.resume_queue("emails")
        assert [claim.id for claim in door.claim(both)] == [ids[0], ids[2]]

    def test_a_running_task_of_a_paused_queue_goes_on(self, door: Door) -> None:
        door.enqueue([new_row()])
        [claim] = door.claim(request())
        door.pause_queue("default")
        assert door.extend([claim.token], 60.0) == [True]
        assert door.finish([completed(claim)]) == [True]

    def test_paused_queues_are_named_once_each_and_in_order(self, door: Door) -> None:
        assert door.paused_queues() == []
        for queue in ("news", "emails", "news"):
            door.pause_queue(queue)
        assert door.paused_queues() == ["emails", "news"]
        for queue in ("news", "news", "never paused"):
            door.resume_queue(queue)
        assert door.paused_queues() == ["emails"]

    def test_enqueueing_wakes_who_waits_for_the_queue(self, door: Door) -> None:
        for queue in ("default", "emails"):
            with door.backend.wakeups.subscribe([queue_topic(queue)]) as subscription:
                door.enqueue([new_row(queue=queue)])
                assert subscription.wait(5.0)

    def test_resuming_wakes_who_waits_for_the_queue(self, door: Door) -> None:
        door.pause_queue("default")
        with door.backend.wakeups.subscribe([queue_topic("default")]) as subscription:
            door.resume_queue("default")
            assert subscription.wait(5.0)

    def test_the_next_due_time_is_the_earliest(self, door: Door) -> None:
        now = door.backend.now()
        assert door.next_due_at(["default"]) is None
        door.enqueue([new_row(), new_row(due_at=_hours_after(now, 2)), new_row(due_at=_hours_after(now, 1))])
        assert door.next_due_at(["default"]) == _hours_after(now, 1)

    def test_a_cancelled_task_has_no_due_time(self, door: Door) -> None:
        now = door.backend.now()
        [first, _] = door.enqueue([new_row(due_at=_hours_after(now, 1)), new_row(due_at=_hours_after(now, 2))])
        door.update_task_status(first, "cancelled")
        assert door.next_due_at(["default"]) == _hours_after(now, 2)

    def test_an_id_may_be_of_any_form(self, door: Door) -> None:
        ids = ["1", "order 17 / ä", new_id()]
        assert door.enqueue([new_row(id=task_id) for task_id in ids]) == ids
        assert [door.get_task(task_id).id for task_id in ids] == ids


def _hours_after(now: datetime, hours: int) -> datetime:
    return now + timedelta(hours=hours)
