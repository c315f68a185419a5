"""The documented verbs: whole tasks and results are kept and given back."""

from __future__ import annotations

import pytest

from ..exceptions import InvalidArgumentError, TaskNotFoundError
from ..ids import new_id
from ..models import Result, Task, TaskStatus
from .doors import ContractCase, Door
from .records import columns_of, full_result, full_task, new_row


class StoringContract(ContractCase):
    """``store_task``, ``get_task``, ``update_task_status``, ``store_result``, ``get_result``, ``has_result``."""

    def test_every_column_of_a_task_survives(self, door: Door) -> None:
        task = full_task()
        stored = columns_of(task)
        assert None not in stored.values()
        door.store_task(task)
        assert columns_of(door.get_task(task.id)) == stored

    def test_a_task_of_two_columns_gets_the_defaults(self, door: Door) -> None:
        task_id = new_id()
        door.store_task(Task(id=task_id, function=b"f"))
        kept = columns_of(door.get_task(task_id))
        del kept["created_at"]  # which the storage may fill in
        expected = columns_of(Task(id=task_id, function=b"f"))
        assert kept == {column: expected[column] for column in kept}

    def test_storing_a_task_again_replaces_every_column(self, door: Door) -> None:
        task = full_task()
        door.store_task(task)
        task_id, created_at = task.id, task.created_at
        door.store_task(Task(id=task_id, function=b"other", created_at=created_at))
        assert columns_of(door.get_task(task_id)) == columns_of(
            Task(id=task_id, function=b"other", created_at=created_at)
        )

    def test_storing_the_same_twice_is_the_same_as_once(self, door: Door) -> None:
        task = full_task()
        stored = columns_of(task)
        for _ in range(2):
            door.store_task(task)
            door.store_result(task.id, full_result(task.id))
        assert columns_of(door.get_task(task.id)) == stored
        assert columns_of(door.get_result(task.id)) == columns_of(full_result(task.id))

    def test_what_was_got_can_be_stored_again(self, door: Door) -> None:
        task = full_task()
        stored = columns_of(task)
        door.store_task(task)
        door.store_task(door.get_task(stored["id"]))
        assert columns_of(door.get_task(stored["id"])) == stored

    def test_an_unknown_id_gives_none(self, door: Door) -> None:
        assert door.get_task("unknown") is None
        assert door.get_result("unknown") is None
        assert door.has_result("unknown") is False

    @pytest.mark.parametrize("status", list(TaskStatus))
    def test_a_status_can_be_set(self, door: Door, status: TaskStatus) -> None:
        [task_id] = door.enqueue([new_row()])
        door.update_task_status(task_id, status.value)
        assert door.get_task(task_id).status == status
        assert door.get_statuses([task_id]) == {task_id: status}

    def test_setting_a_status_keeps_the_call(self, door: Door) -> None:
        row = new_row(args=b"args", kwargs=b"kwargs", priority=3)
        door.enqueue([row])
        door.update_task_status(row["id"], "cancelled")
        task = door.get_task(row["id"])
        assert {column: getattr(task, column) for column in row} == row

    @pytest.mark.usefixtures("checks")
    def test_a_status_of_an_unknown_task_cannot_be_set(self, door: Door) -> None:
        with pytest.raises(TaskNotFoundError):
            door.update_task_status("unknown", "cancelled")

    @pytest.mark.usefixtures("checks")
    def test_an_unknown_status_cannot_be_set(self, door: Door) -> None:
        [task_id] = door.enqueue([new_row()])
        with pytest.raises(InvalidArgumentError):
            door.update_task_status(task_id, "sleeping")
        assert door.get_task(task_id).status == TaskStatus.QUEUED

    def test_every_column_of_a_result_survives(self, door: Door) -> None:
        [task_id] = door.enqueue([new_row()])
        assert door.has_result(task_id) is False
        door.store_result(task_id, full_result(task_id))
        assert door.has_result(task_id) is True
        assert columns_of(door.get_result(task_id)) == columns_of(full_result(task_id))

    def test_storing_a_result_again_replaces_every_column(self, door: Door) -> None:
        [task_id] = door.enqueue([new_row()])
        door.store_result(task_id, full_result(task_id))
        completed_at = full_result(task_id).completed_at
        door.store_result(task_id, Result(task_id=task_id, value=b"", completed_at=completed_at))
        expected = Result(task_id=task_id, value=b"", completed_at=completed_at)
        assert columns_of(door.get_result(task_id)) == columns_of(expected)

    def test_a_result_changes_no_status(self, door: Door) -> None:
        [task_id] = door.enqueue([new_row()])
        door.store_result(task_id, full_result(task_id))
        assert door.get_task(task_id).status == TaskStatus.QUEUED

    @pytest.mark.usefixtures("checks")
    def test_a_result_needs_its_task(self, door: Door) -> None:
        with pytest.raises(TaskNotFoundError):
            door.store_result("unknown", full_result("unknown"))
        assert door.get_result("unknown") is None
