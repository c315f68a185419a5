"""The machine that drives a real store and the model of ``reference`` with the same verbs, and moves the clock."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from proofs.reference import DuplicateError, Reference, Row
from sitq import DuplicateTaskError, Result, TaskStatus
from sitq.claims import Claim, ClaimRequest, IsolatedTasks, Outcome, Progress
from sitq.ids import new_id
from sitq.testing import MovableClock
from sitq.testing.doors import Door

QUEUES = ("a", "b")
LEASE = 30.0
FAR = 3600.0

seconds = st.sampled_from([None, None, None, -FAR, 20.0, FAR])  # from now
crash_rules = st.sampled_from([("retry", 3), ("retry", 3), ("retry", 1), ("retry", 0), ("fail", 3)])
keys = st.sampled_from([None, None, "k", "l"])
conflicts = st.sampled_from(["skip", "replace", "raise"])
values = st.binary(max_size=2)
workers = st.sampled_from(["worker-1", "worker-2", "worker-3"])
new_tasks = st.tuples(
    st.sampled_from(QUEUES), st.integers(-1, 1), values, seconds, st.sampled_from([None, None, None, 40.0]), keys,
    crash_rules, conflicts,
)  # fmt: skip
requests = st.builds(
    ClaimRequest,
    workers,
    st.sampled_from([("a", "b"), ("b", "a"), ("a",)]),
    st.integers(1, 3),
    st.sampled_from([LEASE, LEASE, FAR, 0.0]),
    st.sampled_from([IsolatedTasks.LAST, IsolatedTasks.LAST, IsolatedTasks.FIRST, IsolatedTasks.NONE]),
)
endings = st.sampled_from(["completed", "failed", "cancelled", "retried", "snoozed", "retried later"])


def claimed_as(chosen: tuple[Claim, str]) -> object:
    """A claim ends in one way at a time."""
    return chosen[0].token


class BackendMachine(RuleBasedStateMachine):
    """The machine; ``make_door`` says which backend it drives."""

    documented_verbs = False
    ids = Bundle("ids")
    claims = Bundle("claims")

    def make_door(self) -> Door:
        raise NotImplementedError

    def put_away(self) -> None:
        self.door.close()

    def __init__(self) -> None:
        super().__init__()
        self.door = self.make_door()
        self.clock = MovableClock()
        self.door.backend.use_clock(self.clock)
        self.model = Reference(self.clock, documented_verbs=self.documented_verbs)
        self.outcomes: dict[tuple[object, str], Outcome] = {}

    def teardown(self) -> None:
        try:
            self.look()
        finally:
            self.put_away()

    @rule(by=st.sampled_from([5.0, LEASE, LEASE, FAR, -20.0]))
    def move_clock(self, by: float) -> None:
        self.clock.move(by)

    # What a queue does.

    @initialize(target=ids, tasks=st.lists(new_tasks, min_size=2, max_size=6))
    def begin(self, tasks: list[Any]) -> Any:
        return self.add(tasks)

    @rule(target=ids, tasks=st.lists(new_tasks, min_size=1, max_size=4))
    def enqueue(self, tasks: list[Any]) -> Any:
        return self.add(tasks)

    def add(self, tasks: list[Any]) -> Any:
        new = [self.new_row(*columns[:-1]) for columns in tasks]
        wishes = [columns[-1] for columns in tasks]
        rows = [columns_of(row) | {"created_at": self.clock()} for row in new]
        rows = [
            row if row["unique_key"] is None else row | {"on_conflict": wish}
            for row, wish in zip(rows, wishes, strict=True)
        ]
        try:
            expected = self.model.enqueue(new, wishes)
        except DuplicateError:
            expected = None
        try:
            got = self.door.enqueue(rows)
        except DuplicateTaskError:
            got = None
        assert got == expected
        return multiple(*(row.id for row in new if row.id in self.model.rows))

    def new_row(
        self, queue: str, priority: int, function: bytes, due_in: float | None, expires_in: float | None,
        key: str | None, crash_rule: tuple[str, int],
    ) -> Row:  # fmt: skip
        due_at, expires_at = (None if each is None else self.after(each) for each in (due_in, expires_in))
        return Row(new_id(), queue, priority, function, due_at, expires_at, key, crash_rule)

    def after(self, wait: float) -> Any:
        return self.clock() + timedelta(seconds=wait)

    @rule(task_ids=st.lists(ids, min_size=1, max_size=3, unique=True))
    def cancel(self, task_ids: list[str]) -> None:
        reason = f"reason {len(self.outcomes)}"
        asked = [*task_ids, "unknown"]
        assert self.door.cancel(asked, reason) == self.model.cancel(asked, reason)

    @rule(task_ids=st.lists(ids, min_size=1, max_size=3, unique=True))
    def retry(self, task_ids: list[str]) -> None:
        asked = [*task_ids, "unknown"]
        assert self.door.retry(asked) == self.model.retry(asked)

    @rule(pause=st.booleans())
    def pause_or_resume(self, pause: bool) -> None:
        """One queue runs always, so that there is something to claim."""
        if pause:
            self.door.pause_queue("b")
            self.model.paused.add("b")
        else:
            self.door.resume_queue("b")
            self.model.paused.discard("b")

    # What a worker does.

    @precondition(lambda self: any(self.model.due_in(queue) for queue in QUEUES) or self.model.alone_in(QUEUES))
    @rule(target=claims, request=requests)
    def claim(self, request: ClaimRequest) -> Any:
        return self.claimed(request, lambda: self.door.claim(request))

    @rule(
        target=claims, request=requests, chosen=st.lists(st.tuples(claims, endings), max_size=4, unique_by=claimed_as)
    )
    def go_round(self, request: ClaimRequest, chosen: list[tuple[Claim, str]]) -> Any:
        outcomes = [self.outcome_of(*each) for each in chosen]
        expected = self.model.finish(outcomes)

        def go() -> list[Claim]:
            held, claims = self.door.finish_and_claim(outcomes, request)
            compare_known(held, expected)
            return list(claims)

        return self.claimed(request, go)

    def claimed(self, request: ClaimRequest, claim: Callable[[], list[Claim]]) -> Any:
        waited = {row.id for row in self.model.waiting()}
        got = claim()
        expected = self.model.claim(request, got[0].id if got else None)
        self.model.adopt({task.id: task for task in self.door.list_tasks()}, waited)
        assert [each.token for each in got] == expected
        for each in got:
            row = self.model.rows[each.id]
            assert (each.function, each.retry_count) == (row.function, row.retry_count)
            assert (each.isolated, each.crash_count) == (row.isolated, row.crash_count)
        return multiple(*got)

    @rule(chosen=st.lists(st.tuples(claims, endings), min_size=1, max_size=4, unique_by=claimed_as))
    def finish(self, chosen: list[tuple[Claim, str]]) -> None:
        outcomes = [self.outcome_of(*each) for each in chosen]
        compare_known(self.door.finish(outcomes), self.model.finish(outcomes))

    def outcome_of(self, claim: Claim, ending: str) -> Outcome:
        """How a claim ends with this status: always the same, as a worker that tries again writes the same."""
        outcome = self.new_outcome(claim, ending)
        return self.outcomes.setdefault((claim.token, outcome.status), outcome)

    def new_outcome(self, claim: Claim, ending: str) -> Outcome:
        again = {"retried": -FAR, "snoozed": 20.0, "retried later": FAR}.get(ending)
        return Outcome(
            token=claim.token,
            status=TaskStatus.QUEUED if again is not None else TaskStatus(ending),
            at=self.clock(),
            value=f"{claim.claim_count}".encode() if ending == "completed" else None,
            error_message=None if ending == "completed" else f"it was {ending}",
            due_at=None if again is None else self.after(again),
            retry_count=claim.retry_count + 1 if ending.startswith("retried") else None,
        )

    @rule(chosen=st.lists(claims, min_size=1, max_size=4), lease=st.sampled_from([LEASE, FAR, 0.0]))
    def extend(self, chosen: list[Claim], lease: float) -> None:
        tokens = [claim.token for claim in chosen]
        assert self.door.extend(tokens, lease) == self.model.extend(tokens, lease)

    @rule(chosen=st.lists(st.tuples(claims, st.floats(0, 1, width=16)), min_size=1, max_size=3))
    def report_progress(self, chosen: list[tuple[Claim, float]]) -> None:
        reports = [Progress(claim.token, fraction, f"at {fraction}") for claim, fraction in chosen]
        assert self.door.write_progress(reports) == self.model.write_progress(reports)

    @rule(chosen=st.lists(claims, min_size=1, max_size=4))
    def look_for_cancellations(self, chosen: list[Claim]) -> None:
        tokens = [claim.token for claim in chosen]
        assert self.door.cancel_requests(tokens) == self.model.cancel_requests(tokens)

    @rule()
    def reap(self) -> None:
        assert sorted(self.door.reap()) == self.model.reap()

    @rule(worker=workers)
    def die(self, worker: str) -> None:
        assert sorted(self.door.reap_workers([worker])) == self.model.reap_workers([worker])

    # What an operator does by hand. A backend of the documented verbs notices it when it reaps.

    @rule(task_id=ids, status=st.sampled_from(["completed", "failed", "cancelled", "queued"]))
    def set_status(self, task_id: str, status: str) -> None:
        row = self.model.rows[task_id]
        future = row.due_at is not None and row.due_at > self.clock()
        if status == "queued" and (row.result or future or row.alone or row.cancel_requested or row.key):
            return  # whether result, due time, isolation and key stay is the backend's own affair
        self.door.update_task_status(task_id, status)
        row.status, row.worker_id, row.touched = TaskStatus(status), None, True
        row.scheduled = row.scheduled and status != "queued"
        self.reap()

    @rule(task_id=ids, queue=st.sampled_from(QUEUES), priority=st.integers(-1, 1), function=values)
    def store_task(self, task_id: str, queue: str, priority: int, function: bytes) -> None:
        """What is in a worker's hands stays there."""
        row = self.model.rows[task_id]
        stored = self.door.get_task(task_id)
        self.door.store_task(dataclasses.replace(stored, queue=queue, priority=priority, function=function))
        row.queue, row.priority, row.function = queue, priority, function
        self.reap()

    @rule(task_id=ids, value=values, is_error=st.booleans())
    def store_result(self, task_id: str, value: bytes, is_error: bool) -> None:
        row = self.model.rows[task_id]
        if row.written is not None:
            return  # a repeated outcome may write its result once more
        self.door.store_result(task_id, Result(task_id=task_id, value=value, is_error=is_error))
        row.result = (is_error, value)

    # What must hold at any time.

    @invariant()
    def the_tasks_are_the_models(self) -> None:
        got = {task.id: task for task in self.door.list_tasks()}
        assert list(got) == sorted(self.model.rows, reverse=True)
        for task_id, row in self.model.rows.items():
            expected = row.columns()
            assert {name: getattr(got[task_id], name) for name in expected} == expected
            if not self.documented_verbs:
                assert got[task_id].unique_key == row.holds
                assert row.token is None or got[task_id].lease_until == row.lease_until

    @rule()
    def look(self) -> None:
        """The other ways to look, now and then, and at the end."""
        expected = {task_id: row.status for task_id, row in self.model.rows.items()}
        assert self.door.list_all_tasks() == sorted(expected)
        assert self.door.get_statuses([*expected, "unknown"]) == expected
        assert self.door.paused_queues() == sorted(self.model.paused)
        for task_id, row in self.model.rows.items():
            result = self.door.get_result(task_id)
            assert (result and (result.is_error, result.value)) == row.result
        for queue in QUEUES:
            assert self.door.isolated_waiting([queue]) == bool(self.model.alone_in([queue]))
        for queue in set(QUEUES) - self.model.paused:
            self.look_at_due_time(queue)

    def look_at_due_time(self, queue: str) -> None:
        """It may be that of another queue, if that is earlier."""
        due_at = self.door.next_due_at([queue])
        future = self.model.future_in([queue])
        assert not future or due_at <= min(future)


def columns_of(row: Row) -> dict[str, Any]:
    """What is enqueued for a row of the model."""
    names = ("id", "queue", "priority", "function", "due_at", "expires_at")
    on_crash, max_crashes = row.crash_rule
    options = {"on_crash": on_crash, "max_crashes": max_crashes, "unique_key": row.key}
    return {name: getattr(row, name) for name in names} | {"unique_key": row.key, "options": json.dumps(options)}


def compare_known(got: list[bool], expected: list[bool | None]) -> None:
    """Compare where it is known what is to be expected."""
    assert len(got) == len(expected)
    known = [(held, hope) for held, hope in zip(got, expected, strict=True) if hope is not None]
    assert [held for held, _ in known] == [hope for _, hope in known]
