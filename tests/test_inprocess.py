"""A storage with only the documented verbs: what happens when it fails, restarts, or forgets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dict_backend import CopyingBackend, DictBackend, ListingBackend
from sitq import BackendError, Result, Task
from sitq.backends.inprocess import LOOKED_AT_AGAIN
from sitq.claims import DEFAULT_LEASE, Claim, TaskRow
from sitq.testing.records import completed, failed, new_row, request, retried


class FailingBackend(CopyingBackend):
    """Refuses the verb named in ``fails``, ``after`` so many calls of it."""

    fails: str | None = None
    after = 0

    def store_task(self, task: Task) -> None:
        self._may_fail("store_task")
        super().store_task(task)

    def get_task(self, task_id: str) -> Task | None:
        self._may_fail("get_task")
        return super().get_task(task_id)

    def update_task_status(self, task_id: str, status: str) -> None:
        self._may_fail("update_task_status")
        super().update_task_status(task_id, status)

    def store_result(self, task_id: str, result: Result) -> None:
        self._may_fail("store_result")
        super().store_result(task_id, result)

    def _may_fail(self, verb: str) -> None:
        if verb == self.fails:
            self.after -= 1
            if self.after < 0:
                raise BackendError("the storage is away")

    def fail(self, verb: str, *, after: int = 0) -> None:
        self.fails, self.after = verb, after

    def recover(self) -> None:
        self.fails = None


def reopened(backend: DictBackend) -> ListingBackend:
    """The same storage, as another process finds it."""
    again = ListingBackend()
    again.tasks, again.results = backend.tasks, backend.results
    return again


def ids_of(claims: list[Any]) -> list[str]:
    return [claim.id for claim in claims]


def claim_all(backend: DictBackend) -> list[Claim]:
    """Claim until nothing is left: what was in a crash comes one by one."""
    claims: list[Claim] = []
    while some := backend.claim(request()):
        claims += some
    return claims


def some_rows(count: int) -> list[TaskRow]:
    return [new_row() for _ in range(count)]


def test_an_enqueue_that_fails_halfway_leaves_nothing_to_run() -> None:
    backend = FailingBackend()
    rows = some_rows(3)
    backend.fail("store_task", after=2)
    with pytest.raises(BackendError):
        backend.enqueue(rows)
    backend.recover()
    assert backend.claim(request()) == []
    assert {task.status for task in backend.tasks.values()} == {"cancelled"}
    assert reopened(backend).claim(request()) == []


@pytest.mark.parametrize("verb", ["get_task", "store_task"])
def test_a_claim_that_fails_halfway_loses_no_task(verb: str) -> None:
    backend = FailingBackend()
    ids = backend.enqueue(some_rows(3))
    backend.fail(verb, after=1)
    with pytest.raises(BackendError):
        backend.claim(request(lease=0.0))
    backend.recover()
    backend.reap()
    assert sorted(ids_of(claim_all(backend))) == ids


@pytest.mark.parametrize("verb", ["get_task", "store_result", "store_task", "update_task_status"])
@pytest.mark.parametrize("ending", [completed, failed])
def test_an_ending_that_fails_halfway_can_be_written_again(verb: str, ending: Any) -> None:
    backend = FailingBackend()
    backend.enqueue(some_rows(2))
    outcomes = [ending(claim) for claim in backend.claim(request())]
    backend.fail(verb, after=1)
    with pytest.raises(BackendError):
        backend.finish(outcomes)
    backend.recover()
    assert backend.finish(outcomes) == [True, True]
    assert {task.status for task in backend.tasks.values()} == {outcomes[0].status}
    assert len(backend.results) == 2


@pytest.mark.parametrize("verb", ["get_task", "store_task"])
def test_a_retry_that_fails_halfway_can_be_written_again(verb: str) -> None:
    backend = FailingBackend()
    backend.enqueue(some_rows(2))
    outcomes = [retried(claim, backend.now()) for claim in backend.claim(request())]
    backend.fail(verb, after=1)
    with pytest.raises(BackendError):
        backend.finish(outcomes)
    backend.recover()
    assert backend.finish(outcomes) == [True, True]
    assert [claim.retry_count for claim in backend.claim(request())] == [1, 1]


@pytest.mark.parametrize("verb", ["get_task", "store_task"])
def test_reaping_that_fails_halfway_is_done_the_next_time(verb: str) -> None:
    backend = FailingBackend()
    ids = backend.enqueue(some_rows(2))
    backend.claim(request(lease=0.0))
    backend.fail(verb, after=1)
    with pytest.raises(BackendError):
        backend.reap()
    backend.recover()
    backend.reap()
    assert sorted(ids_of(claim_all(backend))) == ids


def test_after_a_restart_a_storage_that_lists_goes_on_where_it_was() -> None:
    before = CopyingBackend()
    later = before.now() + timedelta(hours=1)
    running, lapsed = before.enqueue(some_rows(2))
    before.claim(request("old", limit=1))
    before.claim(request("old", limit=1, lease=0.0))
    waiting, future = before.enqueue([new_row(), new_row(due_at=later)])
    after = reopened(before)
    assert ids_of(after.claim(request("new"))) == [waiting]
    assert after.next_due_at(["default"]) == later
    assert after.reap() == [lapsed]
    assert ids_of(after.claim(request("new"))) == [lapsed]
    assert after.list_all_tasks() == [running, lapsed, waiting, future]


def test_a_claim_of_before_the_restart_may_still_end() -> None:
    before = CopyingBackend()
    before.enqueue(some_rows(1))
    [claim] = before.claim(request())
    after = reopened(before)
    after.reap()
    assert after.finish([completed(claim)]) == [True]


def test_a_task_that_was_set_running_by_hand_gets_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ListingBackend()
    [task_id] = backend.enqueue(some_rows(1))
    backend.update_task_status(task_id, "running")
    assert backend.reap() == []
    assert backend.claim(request()) == []
    much_later = backend.now() + timedelta(seconds=DEFAULT_LEASE + 1)
    monkeypatch.setattr(backend, "now", lambda: much_later)
    assert backend.reap() == [task_id]


def test_a_task_that_expired_is_cancelled_when_its_turn_comes() -> None:
    backend = DictBackend()
    now = backend.now()
    expired, fresh = backend.enqueue(
        [new_row(expires_at=now - timedelta(seconds=1)), new_row(expires_at=now + timedelta(hours=1))]
    )
    assert ids_of(backend.claim(request())) == [fresh]
    result = backend.get_result(expired)
    assert backend.get_statuses([expired]) == {expired: "cancelled"}
    assert result is not None
    assert result.error_type == "sitq.exceptions.TaskCancelledError"


def test_a_task_that_the_storage_forgot_is_forgotten() -> None:
    backend = DictBackend()
    lost, kept, future = backend.enqueue([*some_rows(2), new_row(due_at=backend.now() + timedelta(hours=1))])
    del backend.tasks[lost], backend.tasks[future]
    assert ids_of(backend.claim(request())) == [kept]
    assert backend.next_due_at(["default"]) is None
    assert [task.id for task in backend.list_tasks()] == [kept]
    backend.reap()
    assert backend.list_all_tasks() == [kept]


def test_a_task_that_was_put_back_is_noticed_also_among_many() -> None:
    backend = DictBackend()
    ids = backend.enqueue(some_rows(LOOKED_AT_AGAIN * 2 + 1))
    for task_id in ids:
        backend.update_task_status(task_id, "completed")
    assert backend.claim(request()) == []
    backend.update_task_status(ids[-1], "queued")
    for _ in range(3):
        backend.reap()
    assert ids_of(backend.claim(request())) == [ids[-1]]


def test_looking_again_and_again_claims_nothing_twice() -> None:
    backend = DictBackend()
    backend.enqueue([*some_rows(5), new_row(due_at=backend.now() + timedelta(hours=1))])
    for _ in range(5):
        backend.reap()
        backend.next_due_at(["default"])
    claims = backend.claim(request(limit=100))
    assert len(claims) == 5
    assert backend.claim(request(limit=100)) == []
