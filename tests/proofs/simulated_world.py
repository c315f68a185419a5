"""What one seed of the simulation is: workers, an app, misfortunes, and a story of what happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

from proofs.judge import Judge, Violation
from proofs.simulated_store import Link, Store, happened_in, seconds
from proofs.simulated_worker import LEASE, QUEUES, Died, SimulatedPresence, SimulatedWorker
from sitq import Retry, SitqError, Snooze
from sitq.claims import Token
from sitq.control import Cancel
from sitq.testing import MovableClock
from sitq.wakeups import CANCELLATIONS, Wakeups, queue_topic

WORKERS = 3  # at once, at most
TROUBLE = 60.0  # simulated seconds during which things go wrong
CALM = 1_800.0  # after which every task must have ended
STORY = 10_000  # lines, after which it is taken for a story without end
TASKS = 6  # about
START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Plan:
    """What a task does each time it runs; from the third time on it returns."""

    takes: float
    ends: str
    runs: int = 0


class Simulation:
    """One seed. ``run`` raises ``Violation``, and ``story`` tells what happened."""

    def __init__(self, store: Store, seed: int) -> None:
        self.random = random.Random(seed)
        random.seed(seed)  # sitq's own jitter
        self.faults = self.random.choice([0.0, 0.05, 0.1, 0.2])
        self.story: list[str] = []
        self.happened: Counter[str] = Counter()
        self._store = store
        self._time = 0.0
        self._clock = MovableClock(START)
        self._jumped_at = -1.0
        self._problem: Exception | None = None
        store.empty(self._clock)
        self._wakeups = Wakeups()
        self._links: dict[str, Link] = {}
        self._faulty_at: dict[str, float] = {}
        self._workers: list[SimulatedWorker] = []
        self._buried: list[SimulatedWorker] = []
        self._forgotten: set[str] = set()
        self._numbers = count(1)
        self._plans: dict[str, Plan] = {}
        self._running: list[tuple[str, str]] = []
        self.judge = Judge(store.connection, self._clock, self._excuse, self._is_dead, self.time)
        self._app = self._link("app", store.backends[0])

    # What workers and links ask.

    def time(self) -> float:
        return self._time

    def note(self, *what: object) -> None:
        self.story.append(f"{self._time:9.3f}  " + " ".join(map(str, what)))

    def see(self, verb: str, args: tuple[Any, ...], answer: Any) -> None:
        if verb in READS:
            return
        before = self.judge.rows
        try:
            self.happened += happened_in(verb, answer)
            self.judge.committed(verb, args, answer)
        except Exception as problem:
            self.condemn(problem)
        if self.judge.rows != before and self.random.random() < 0.7:  # news of other processes may be lost
            self._wakeups.notify(NEWS.get(verb, [queue_topic(queue) for queue in QUEUES]))

    def condemn(self, problem: Exception) -> None:
        """Keep it for the next step: a worker would outlive it, as it outlives whatever its database does."""
        self._problem = self._problem or problem

    def intrusion(self, link: Link) -> Callable[[], None]:
        """What somebody else does in the middle of a call."""
        others = [worker for worker in self._workers if worker.may_go_on() and worker.rounds and worker.id != link.name]
        beats = [worker.beat for worker in others]
        elsewhere = [self._write_elsewhere] if link is not self._app else []
        return self.random.choice([*elsewhere, *beats, lambda: None])

    def dead_on(self, machine: int) -> list[str]:
        workers = self._workers + self._buried
        return [
            each.id for each in workers if each.machine == machine and each.is_dead and each.id not in self._forgotten
        ]

    def forget(self, worker_ids: list[str]) -> None:
        self._forgotten |= set(worker_ids)

    async def work(self, worker: SimulatedWorker, task_id: str) -> bytes:
        """What every task does."""
        plan = self._plans[task_id]
        plan.runs += 1
        run = (worker.id, f"{task_id} run {plan.runs}")
        try:
            self.judge.begun(task_id, worker.id)
        except Violation as violation:
            self.condemn(violation)
        self._running.append(run)
        self.note(*run, "begins")
        ends = plan.ends if plan.runs < 3 else "return"
        try:
            await asyncio.sleep(plan.takes)
        finally:
            self._running.remove(run)
            self.note(*run, "is over")
        if ends != "return":
            raise {
                "fail": ValueError("it fails"),
                "retry": Retry(delay=7),
                "snooze": Snooze(11),
                "cancel": Cancel("no"),
            }[ends]
        return " ".join(run).encode()

    def _live_runs(self) -> list[tuple[str, str]]:
        return [run for run in self._running if not self._is_dead(run[0])]

    def _excuse(self, token: Token) -> float:
        """Since when nothing was wrong with the worker of a claim. It does not extend what it does not know of yet."""
        [rounds] = [each.rounds for each in self._workers + self._buried if each.id == token.worker_id]
        if rounds is not None and token not in rounds._held_tokens():
            return self._time
        return max(self._jumped_at, self._faulty_at.get(token.worker_id, -1.0))

    def _is_dead(self, worker_id: str) -> bool:
        workers = self._workers + self._buried
        return any(worker.id == worker_id and worker.is_over for worker in workers)

    # The run.

    def run(self) -> None:
        try:
            self._enqueue()
            while self._time < TROUBLE:
                self._step()
            self._calm_down()
            while self.judge.unfinished or self._live_runs():
                self._step()
                if self._time > TROUBLE + CALM:
                    raise Violation(f"{self.judge.unfinished} did not end, {self._live_runs()} still run")
        finally:
            for worker in self._workers + self._buried:
                self._links[worker.id].is_dead = True
                worker.bury()

    def _step(self) -> None:
        if len(self.story) > STORY:
            raise Violation("it does not come to rest")
        if self._problem is not None:
            raise self._problem
        self._replace_the_dead()
        if self._time < TROUBLE and self.random.random() < 0.06:
            self.random.choice([self._enqueue, self._enqueue, self._cancel, self._retry, *([self._misfortune] * 4)])()
        turns = [turn for worker in self._workers for turn in worker.turns()]
        if turns:
            self.random.choice(turns)()
        else:
            times = [each for worker in self._workers if (each := worker.next_event()) is not None]
            until = min([*times, self._time + 5.0])
            assert until > self._time, "the simulation stands still"
            self._pass_time(until)

    def _pass_time(self, until: float) -> None:
        self._clock.move(max(0.0, until - self._time))
        self._time = max(self._time, until)

    def _replace_the_dead(self) -> None:
        for worker in [each for each in self._workers if self._links[each.id].is_dead]:
            worker.is_dead = True
        over = [each for each in self._workers if each.is_over]
        for worker in over:
            if worker.task.done() and not worker.task.cancelled() and worker.task.exception() is not None:
                raise Violation(f"{worker.id} ended with {worker.task.exception()!r}")
            if self.random.random() < 0.2 or self._time >= TROUBLE:
                self._workers.remove(worker)
                self._buried.append(worker)
        while len(self._workers) < WORKERS and (not self._workers or self.random.random() < 0.1):
            self._start_worker()

    def _start_worker(self) -> None:
        free = [
            each
            for each in self._store.backends[1:]
            if all(self._links[w.id]._backend is not each for w in self._workers)
        ]
        name = f"worker-{next(self._numbers)}"
        link = self._link(name, free[0])
        machine = self.random.randrange(2)
        link.presence = lambda worker_id: SimulatedPresence(worker_id, self, machine)
        self._workers.append(SimulatedWorker(name, self, link, machine=machine, concurrency=self.random.randint(1, 3)))
        self.note(name, "starts on machine", machine)

    def _link(self, name: str, backend: Any) -> Link:
        link = self._links[name] = Link(name, self._store, backend, self, self._wakeups)
        link.on_fault = lambda: self._faulty_at.__setitem__(name, self._time)
        return link

    def _calm_down(self) -> None:
        self.note("from now on all goes well")
        self.faults = 0.0

    # What the app does.

    def _enqueue(self) -> None:
        if len(self._plans) >= TASKS:
            return
        rows = [self._row() for _ in range(self.random.randint(1, 3))]
        self._as_app("enqueue", rows)

    def _row(self) -> dict[str, Any]:
        task_id, key = f"task-{next(self._numbers):04}", self.random.choice([None, None, "k", "l"])
        expires = self.random.choice([None, None, None, self._clock() + seconds(20)])
        self._plans[task_id] = Plan(self.random.choice([0.0, 1.0, 10.0, 25.0, 45.0, 70.0]), self.random.choice(ENDS))
        self.judge.keys[task_id], self.judge.expires[task_id] = key, expires
        row = {
            "id": task_id, "function": b"", "created_at": self._clock(), "queue": self.random.choice("ab"),
            "priority": self.random.randint(0, 1), "max_retries": self.random.randint(0, 2), "expires_at": expires,
            "due_at": self.random.choice([None, None, self._clock() + seconds(15)]), "unique_key": key,
            "options": json.dumps({"unique_key": key, "retry_delay": 5}),
        }  # fmt: skip
        return row if key is None else row | {"on_conflict": "skip"}

    def _cancel(self) -> None:
        self._as_app("cancel", self._some_task(), "the app says so")

    def _retry(self) -> None:
        self._as_app("retry", self._some_task())

    def _some_task(self) -> list[str]:
        return [self.random.choice(sorted(self.judge.rows))] if self.judge.rows else []

    def _as_app(self, verb: str, *args: Any) -> None:
        try:
            getattr(self._app, verb)(*args)
        except SitqError:
            pass  # it is told in the story
        except Died:
            self._app.is_dead = False  # another process takes its place

    def _write_elsewhere(self) -> None:
        """It touches no task, and needs the write lock like everybody."""
        with contextlib.suppress(SitqError):
            self._store.backends[0].pause_queue("another")

    # What goes wrong.

    def _misfortune(self) -> None:
        if not self._workers:
            return
        worker = self.random.choice(self._workers)
        what = self.random.choice(MISFORTUNES)
        self.note(worker.id, what)
        self.happened[what] += 1
        if what == "stalls":
            worker.stalled_until = self._time + self.random.choice([1.0, LEASE + 5, 2 * LEASE])
            self._faulty_at[worker.id] = worker.stalled_until
        elif what == "is blocked":
            worker.blocked_until = self._time + self.random.choice([1.0, LEASE + 5, 2 * LEASE])
        elif what == "is killed":
            self._links[worker.id].is_dead = worker.is_dead = True
        elif what == "the clock jumps":
            self._clock.move(self.random.choice([-40.0, -5.0, 5.0, 40.0]))
            self._jumped_at = self._time
        else:
            (worker.stop if what == "stops" else worker.stop_at_once)()


READS = ("cancel_requests", "next_due_at", "isolated_waiting")
NEWS = {"cancel": [CANCELLATIONS], "extend": [], "write_progress": []}
MISFORTUNES = (*["stalls"] * 3, "is blocked", "is killed", "stops", "stops at once", "the clock jumps")
ENDS = ("return", "return", "return", "fail", "retry", "snooze", "cancel")
