"""Any sequence of verbs does to a backend what it does to a model in memory."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from dict_backend import DictBackend, ListingBackend
from sitq import Result, SQLiteBackend, TaskStatus
from sitq.claims import Claim, ClaimRequest, Outcome, Token
from sitq.crashes import DEFAULT_MAX_CRASHES
from sitq.ids import new_id
from sitq.testing.doors import AsyncDoor, Door, SyncDoor

pytestmark = pytest.mark.timeout(600)  # to find the shortest example of a failure takes a while

NOW = datetime.now(UTC)
LONG, LAPSED = 3600.0, 0.0
QUEUES = ("a", "b")

queues = st.sampled_from(QUEUES)
queue_lists = st.sampled_from([("a", "b"), ("b", "a"), ("a",)])
priorities = st.integers(-1, 1)
due_times = st.sampled_from([None, None, NOW - timedelta(hours=1), NOW + timedelta(hours=5), NOW + timedelta(hours=6)])
leases = st.sampled_from([LONG, LAPSED])
workers = st.sampled_from(["worker-1", "worker-1", "worker-2"])
endings = st.sampled_from([status for status in TaskStatus if status is not TaskStatus.RUNNING])
values = st.binary(max_size=2)
new_tasks = st.tuples(queues, priorities, due_times, values)


@dataclasses.dataclass
class ModelTask:
    """What must be known of a task to say what each verb does with it."""

    id: str
    queue: str
    priority: int
    due_at: datetime | None
    function: bytes
    status: TaskStatus = TaskStatus.QUEUED
    retry_count: int = 0
    claim_count: int = 0
    worker_id: str | None = None
    lapsed: bool = False
    alone: bool = False  # it waits to run alone
    isolated: bool = False  # it runs alone
    crash_count: int = 0
    result: tuple[bool | None, bytes | None] | None = None
    written: Outcome | None = None  # by the latest claim
    touched: bool = False  # by an operator since then

    @property
    def token(self) -> Token | None:
        if self.status is not TaskStatus.RUNNING or self.worker_id is None:
            return None
        return Token(self.id, self.worker_id, self.claim_count)

    @property
    def future(self) -> bool:
        return self.due_at is not None and self.due_at > NOW + timedelta(hours=4)

    def apply(self, outcome: Outcome) -> None:
        self.status, self.lapsed, self.isolated = outcome.status, False, False
        self.written, self.touched = outcome, False
        if outcome.status.ended:
            self.result = (outcome.status is not TaskStatus.COMPLETED, outcome.value)
            return
        self.due_at = outcome.due_at
        self.retry_count += 1

    def crash(self, due_at: datetime | None) -> None:
        """Its worker died: it runs again alone, or has done so too often."""
        self.crash_count += self.isolated
        self.worker_id, self.lapsed, self.written = None, False, None
        if self.crash_count == DEFAULT_MAX_CRASHES:
            self.status, self.isolated, self.result = TaskStatus.FAILED, False, (True, None)
        else:
            self.status, self.alone, self.due_at = TaskStatus.QUEUED, True, due_at


def claimed_as(chosen: tuple[Claim, TaskStatus]) -> Token:
    """A claim ends in one way at a time."""
    return chosen[0].token


class BackendModel(RuleBasedStateMachine):
    """The machine; each backend has a subclass."""

    door: Door
    ids = Bundle("ids")
    claims = Bundle("claims")

    def make_door(self, folder: Path) -> Door:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.door = self.make_door(Path(self.folder.name))
        self.tasks: dict[str, ModelTask] = {}
        self.paused: set[str] = set()

    def teardown(self) -> None:
        try:
            self.look()
        finally:
            self.door.close()
            self.folder.cleanup()

    # What a queue does.

    @initialize(target=ids, tasks=st.lists(new_tasks, min_size=2, max_size=6))
    def begin(self, tasks: list[tuple[str, int, datetime | None, bytes]]) -> Any:
        return self.add(tasks)

    @rule(target=ids, tasks=st.lists(new_tasks, min_size=1, max_size=4))
    def enqueue(self, tasks: list[tuple[str, int, datetime | None, bytes]]) -> Any:
        return self.add(tasks)

    def add(self, tasks: list[tuple[str, int, datetime | None, bytes]]) -> Any:
        new = [ModelTask(new_id(), *columns) for columns in tasks]
        rows = [
            {name: getattr(each, name) for name in ("id", "queue", "priority", "due_at", "function")} for each in new
        ]
        rows = [row | {"created_at": NOW} for row in rows]
        assert self.door.enqueue(rows) == [each.id for each in new]
        self.tasks |= {each.id: each for each in new}
        return multiple(*(each.id for each in new))

    @rule(pause=st.booleans())
    def pause_or_resume(self, pause: bool) -> None:
        """One queue runs always, so that there is something to claim."""
        if pause:
            self.door.pause_queue("b")
            self.paused.add("b")
        else:
            self.door.resume_queue("b")
            self.paused.discard("b")

    # What a worker does.

    @precondition(lambda self: self.something_is_due())
    @rule(target=claims, worker=workers, names=queue_lists, limit=st.integers(1, 3))
    def claim(self, worker: str, names: tuple[str, ...], limit: int) -> Any:
        return self.claim_for(worker, names, limit, LONG)

    @precondition(lambda self: self.something_is_due())
    @rule(target=claims, worker=workers, names=queue_lists, limit=st.integers(1, 3))
    def claim_and_lapse(self, worker: str, names: tuple[str, ...], limit: int) -> Any:
        return self.claim_for(worker, names, limit, LAPSED)

    def claim_for(self, worker: str, names: tuple[str, ...], limit: int, lease: float) -> Any:
        running = [name for name in names if name not in self.paused]
        due = [each for name in running for each in self.due_in(name)][:limit]
        got: list[Claim] = self.door.claim(ClaimRequest(worker, names, limit, lease))
        if due or not got:
            assert [claim.id for claim in got] == [each.id for each in due]
            assert due or not any(self.alone_in(name) for name in running)
        else:
            [claim] = got
            assert self.tasks[claim.id] in [each for name in running for each in self.alone_in(name)]
        for claim in got:
            self.check_claim(claim, worker, lapsed=lease == LAPSED)
        return multiple(*got)

    def check_claim(self, claim: Claim, worker: str, *, lapsed: bool) -> None:
        task = self.tasks[claim.id]
        task.status, task.worker_id, task.lapsed, task.written = TaskStatus.RUNNING, worker, lapsed, None
        task.isolated, task.alone = task.alone, False
        task.claim_count += 1
        assert claim.token == task.token
        assert (claim.function, claim.retry_count) == (task.function, task.retry_count)
        assert (claim.isolated, claim.crash_count) == (task.isolated, task.crash_count)

    @rule(chosen=st.lists(st.tuples(claims, endings), min_size=1, max_size=4, unique_by=claimed_as))
    def finish(self, chosen: list[tuple[Claim, TaskStatus]]) -> None:
        outcomes = [outcome_of(claim, status) for claim, status in chosen]
        expected = [self.finish_one(outcome) for outcome in outcomes]
        held = self.door.finish(outcomes)
        assert [each for each, known in zip(held, expected, strict=True) if known is not None] == [
            known for known in expected if known is not None
        ]

    def finish_one(self, outcome: Outcome) -> bool | None:
        """Whether the claim held; ``None`` if an operator may have given the task the same looks by hand."""
        task = self.tasks[outcome.token.task_id]
        if task.token == outcome.token:
            task.apply(outcome)
            return True
        return None if task.touched and task.written == outcome else task.written == outcome

    @rule(chosen=st.lists(claims, min_size=1, max_size=4), lease=leases)
    def extend(self, chosen: list[Claim], lease: float) -> None:
        expected = []
        for claim in chosen:
            task = self.tasks[claim.id]
            expected.append(task.token == claim.token)
            if expected[-1]:
                task.lapsed = lease == LAPSED
        assert self.door.extend([claim.token for claim in chosen], lease) == expected

    @rule()
    def reap(self) -> None:
        lapsed = [each for each in self.tasks.values() if each.token and each.lapsed]
        assert sorted(self.door.reap()) == sorted(each.id for each in lapsed)
        for each in lapsed:
            each.crash(self.door.get_task(each.id).due_at)

    # What an operator does. A backend of the documented verbs notices it when it reaps.

    @rule(task_id=ids, status=st.sampled_from(["completed", "failed", "cancelled", "queued"]))
    def set_status(self, task_id: str, status: str) -> None:
        task = self.tasks[task_id]
        if status == "queued" and (task.result is not None or task.future or task.alone):
            return  # whether result, due time and isolation stay is the backend's own affair
        self.door.update_task_status(task_id, status)
        task.status, task.worker_id, task.touched = TaskStatus(status), None, True
        self.reap()

    @rule(task_id=ids, queue=queues, priority=priorities, function=values)
    def replace(self, task_id: str, queue: str, priority: int, function: bytes) -> None:
        """What is in a worker's hands stays there."""
        task = self.tasks[task_id]
        stored = self.door.get_task(task_id)
        self.door.store_task(dataclasses.replace(stored, queue=queue, priority=priority, function=function))
        task.queue, task.priority, task.function = queue, priority, function
        self.reap()

    @rule(task_id=ids, value=values, is_error=st.booleans())
    def store_result(self, task_id: str, value: bytes, is_error: bool) -> None:
        task = self.tasks[task_id]
        if task.written is not None:
            return  # a repeated outcome may write its result once more
        self.door.store_result(task_id, Result(task_id=task_id, value=value, is_error=is_error))
        task.result = (is_error, value)

    # What must hold at any time.

    def something_is_due(self) -> bool:
        return any(self.due_in(queue) + self.alone_in(queue) for queue in QUEUES)

    def due_in(self, queue: str) -> list[ModelTask]:
        due = [each for each in self.waiting_in(queue) if not each.future and not each.alone]
        return sorted(due, key=lambda each: (-each.priority, each.id))

    def alone_in(self, queue: str) -> list[ModelTask]:
        return [each for each in self.waiting_in(queue) if each.alone]

    def waiting_in(self, queue: str) -> list[ModelTask]:
        return [each for each in self.tasks.values() if each.queue == queue and each.status is TaskStatus.QUEUED]

    @invariant()
    def the_tasks_are_the_models(self) -> None:
        got = {task.id: task for task in self.door.list_tasks()}
        assert list(got) == sorted(self.tasks, reverse=True)
        for task_id, model in self.tasks.items():
            for column in (
                "queue",
                "priority",
                "function",
                "status",
                "retry_count",
                "claim_count",
                "crash_count",
                "due_at",
            ):
                assert getattr(got[task_id], column) == getattr(model, column), column

    @rule()
    def look(self) -> None:
        """The other ways to look, now and then, and at the end."""
        expected = {task_id: task.status for task_id, task in self.tasks.items()}
        assert self.door.list_all_tasks() == sorted(expected)
        assert self.door.get_statuses([*expected, "unknown"]) == expected
        assert self.door.paused_queues() == sorted(self.paused)
        for task_id, task in self.tasks.items():
            result = self.door.get_result(task_id)
            assert (result and (result.is_error, result.value)) == task.result
        for queue in set(QUEUES) - self.paused:
            self.look_at_due_time(queue)

    def look_at_due_time(self, queue: str) -> None:
        """It may be that of another queue, if that is earlier."""
        future = [each for each in self.tasks.values() if each.status is TaskStatus.QUEUED and each.future]
        times = [each.due_at for each in future if each.queue == queue]
        due_at = self.door.next_due_at([queue])
        assert due_at in [each.due_at for each in future] + [None]
        assert not times or due_at <= min(times)


def outcome_of(claim: Claim, status: TaskStatus) -> Outcome:
    """How a claim ends with this status: always the same way, as a worker that tries again writes the same."""
    retry = status is TaskStatus.QUEUED
    later = claim.claim_count % 2 == 0
    return Outcome(
        token=claim.token,
        status=status,
        at=NOW,
        value=f"{claim.claim_count}".encode() if status is TaskStatus.COMPLETED else None,
        error_message=None if status is TaskStatus.COMPLETED else f"it is {status.value}",
        due_at=NOW + timedelta(hours=5 if later else -5) if retry else None,
        retry_count=claim.retry_count + 1 if retry else None,
    )


class DictModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return SyncDoor(DictBackend({}))


class ListingModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return SyncDoor(ListingBackend({}))


class SQLiteFileModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return SyncDoor(SQLiteBackend(folder / "tasks.db"))


class SQLiteFileAsyncModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return AsyncDoor(SQLiteBackend(folder / "tasks.db"))


class SQLiteMemoryModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return SyncDoor(SQLiteBackend(":memory:"))


class SQLiteMemoryAsyncModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return AsyncDoor(SQLiteBackend(":memory:"))


class EncryptedModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return SyncDoor(encrypted(folder))


class EncryptedAsyncModel(BackendModel):
    def make_door(self, folder: Path) -> Door:
        return AsyncDoor(encrypted(folder))


def encrypted(folder: Path) -> SQLiteBackend:
    pytest.importorskip("sqlcipher3")
    return SQLiteBackend(folder / "tasks.db", encryption_key="the passphrase of these tests", cipher="AES-256")


def settled(examples: int) -> settings:
    """No deadlines: the machine may be busy. What was found is printed, not kept."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, stateful_step_count=30, deadline=None, database=None, suppress_health_check=slow
    )


TestDict = DictModel.TestCase
TestDict.settings = settled(80)
TestListing = ListingModel.TestCase
TestListing.settings = settled(80)
TestSQLiteFile = SQLiteFileModel.TestCase
TestSQLiteFile.settings = settled(15)
TestSQLiteFileAsync = SQLiteFileAsyncModel.TestCase
TestSQLiteFileAsync.settings = settled(15)
TestSQLiteMemory = SQLiteMemoryModel.TestCase
TestSQLiteMemory.settings = settled(15)
TestSQLiteMemoryAsync = SQLiteMemoryAsyncModel.TestCase
TestSQLiteMemoryAsync.settings = settled(15)
TestEncrypted = EncryptedModel.TestCase
TestEncrypted.settings = settled(5)
TestEncryptedAsync = EncryptedAsyncModel.TestCase
TestEncryptedAsync.settings = settled(5)
