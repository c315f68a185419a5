"""The faults: each is a function of a bench, and returns when all tasks should have survived it."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

import sitq
from freezing import freeze, thaw
from sitq.worker import DEFAULT_CONCURRENCY

from . import clocks, tasks, witness
from .bench import Bench
from .evidence import Event

Fault: TypeAlias = Callable[[Bench], None]

TASKS = 40
SHORT = 1.5  # seconds; a lease that a fault outlasts
LEASE = 3.0  # seconds; a lease that nothing but the clock lets lapse
NTH = {witness.AFTER_CLAIM: 3, witness.BEFORE_COMPLETION: 3, witness.IN_STATEMENT: 2}
"""When a point is the one, where it comes but once a round, or so slowly that another worker takes the other tasks."""

ANY = ("sqlite", "postgresql", "mariadb")
SERVERS = ("postgresql", "mariadb")


def kill_at(point: str, bench: Bench) -> None:
    """A worker is killed where it has come to a point for some time."""
    nth = NTH.get(point, 6)
    victim = bench.start(point=point, nth=nth)
    bench.enqueuer.enqueue_some(TASKS)
    bench.start()
    bench.bury(victim)


def kill_amid_many(bench: Bench) -> None:
    """A worker with default settings is killed in the middle of 200 tasks of 50 ms, and another is there."""
    other, victim = (bench.start(concurrency=DEFAULT_CONCURRENCY) for _ in range(2))
    freeze(other)  # so that the victim has all of them
    for _ in range(200):
        bench.enqueuer.enqueue(tasks.work, 0.05)
    bench.until_seen("ended", 60)
    bench.fault()
    bench.kill(victim)
    thaw(other)


def kill_elsewhere(bench: Bench) -> None:
    """A worker of another machine is killed: nothing but its leases tells of it."""
    victim = bench.start(point=witness.AFTER_EFFECT, nth=6, lease=SHORT, elsewhere=True)
    bench.enqueuer.enqueue_some(TASKS)
    bench.start(lease=SHORT)
    bench.bury(victim)
    bench.lapses = True


def kill_an_enqueuer(bench: Bench) -> None:
    """Who enqueues is killed, in the middle of transactions that were to be committed and rolled back."""
    bench.start()
    command = [sys.executable, "-W", "error", "-m", "proofs.enqueuer", bench.url, str(bench.log.path), "1000"]
    enqueuer = bench.run(command)
    bench.until_seen("enqueued", TASKS)
    bench.fault()
    bench.kill(enqueuer)


def stop_and_continue(bench: Bench) -> None:
    """A worker is stopped for longer than its lease, and goes on when others have taken its tasks."""
    victim = bench.start(lease=SHORT)
    bench.enqueuer.enqueue_some(TASKS)
    bench.hold()
    bench.lapses = True
    bench.fault()
    freeze(victim)
    bench.release()
    bench.start(lease=SHORT)
    bench.drain()
    thaw(victim)
    bench.until_seen("ended", len(begun_by(victim, bench)), of=lambda event: event.process == victim.pid)


def stop_at(point: str, bench: Bench) -> None:
    """A worker is stopped when it is about to write endings, and writes them while others run the same tasks."""
    victim = bench.start(point=point, kills=False, lease=SHORT)
    bench.hold(1)
    bench.lapses = True
    bench.start(lease=SHORT)
    bench.release("first")
    bench.until_seen("began", of=lambda event: event.claim == 2)
    thaw(victim)
    bench.until_seen("finished", of=lambda event: event.process == victim.pid)
    bench.look()
    bench.release()
    bench.enqueuer.enqueue_some(TASKS)


def begun_by(worker: subprocess.Popen[str], bench: Bench) -> list[Event]:
    return [event for event in bench.log.read() if event.what == "began" and event.process == worker.pid]


def block_the_loop(bench: Bench) -> None:
    """A function blocks its worker's event loop for longer than the lease; others look on."""
    bench.start(lease=SHORT)
    bench.start(lease=SHORT)
    bench.enqueuer.enqueue_some(TASKS // 2)
    bench.fault()
    bench.enqueuer.enqueue(tasks.block_the_loop, SHORT * 2, priority=9)
    bench.enqueuer.enqueue_some(TASKS // 2)


def reap_at_once(bench: Bench) -> None:
    """Two workers wake at the same moment, and both find the lapsed claims of a dead one."""
    victim = bench.start(point=witness.AFTER_EFFECT, nth=6, lease=SHORT, elsewhere=True)
    reapers = [bench.start(lease=SHORT, elsewhere=True) for _ in range(2)]
    for reaper in reapers:
        freeze(reaper)
    bench.enqueuer.enqueue_some(TASKS)
    bench.bury(victim)
    bench.lapses = True
    bench.until(lambda: lapsed(bench), "leases to lapse")
    for reaper in reapers:
        thaw(reaper)


def lapsed(bench: Bench) -> bool:
    now = bench.backend.now()
    running = bench.backend.list_tasks(status="running")
    return all(task.lease_until is not None and task.lease_until < now for task in running)


def step_the_clock(seconds: float, bench: Bench) -> None:
    """The database's clock is set while two workers run tasks, and one of them cannot look at it just then."""
    file = bench.folder / "clock"
    clocks.step(file, 0)
    late = bench.start(lease=LEASE, clock=str(file))
    bench.hold()
    bench.start(lease=LEASE, clock=str(file))
    bench.enqueuer.enqueue_some(TASKS // 2)
    bench.lapses = True
    freeze(late)
    bench.fault()
    clocks.step(file, seconds)
    if seconds > LEASE:
        bench.until_seen("reaped")
    thaw(late)
    bench.release()
    bench.enqueuer.enqueue_some(TASKS // 2)


def fill_the_disk(bench: Bench) -> None:
    """A worker may write no byte more to the database, while its tasks end; then it may again."""
    worker = bench.start()
    bench.enqueuer.enqueue_some(TASKS)
    bench.hold()
    journal = Path(f"{bench.backend.engine.url.database}-wal")
    bench.fault()
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (journal.stat().st_size, resource.RLIM_INFINITY))
    end_in_vain(bench)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    bench.log.write("healed")


def fill_the_disk_of_a_server(bench: Bench) -> None:
    """The disk is full, so that nothing more can be enqueued, while tasks end; then there is room again."""
    bench.start()
    bench.enqueuer.enqueue_some(TASKS)
    bench.hold()
    bench.fault()
    bench.host.fill()
    # The last in a session of our own, the second where the server does not outlive it.
    with contextlib.suppress(sitq.DatabaseFullError, sitq.DatabaseUnavailableError, OperationalError):
        while True:
            bench.enqueuer.enqueue(tasks.carry, os.urandom(20_000))
    bench.release()
    bench.until_seen("ended", 4)
    bench.host.clear()
    bench.log.write("healed")
    bench.enqueuer.enqueue_some(TASKS)


def end_in_vain(bench: Bench) -> None:
    """Let the tasks that are held end, and wait until the first ending could not be written."""
    bench.release()
    bench.until(lambda: unwritten(bench), "endings that cannot be written")


def unwritten(bench: Bench) -> set[tuple[str | None, int | None]]:
    """Claims whose endings a worker has tried to write more than once, and not written."""
    events = bench.log.read()
    tried = Counter((event.task, event.claim) for event in events if event.what == "finishing")
    written = {(event.task, event.claim) for event in events if event.what == "finished"}
    return {claim for claim, times in tried.items() if times > 1} - written


def lock_the_database(bench: Bench) -> None:
    """Somebody holds the write lock for longer than workers wait for it."""
    for _ in range(2):
        bench.start(options={"connection_timeout": 0.2})
    bench.enqueuer.enqueue_some(TASKS)
    bench.hold()
    with closing(sqlite3.connect(bench.backend.engine.url.database or "", isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        bench.fault()
        end_in_vain(bench)
        time.sleep(1)
        other.execute("COMMIT")
    bench.log.write("healed")


def cut_connections(bench: Bench) -> None:
    """The server ends the connections of this run's workers, three times."""
    for _ in range(2):
        bench.start()
    bench.enqueuer.enqueue_some(TASKS)
    for round_ in range(3):
        bench.until_seen("finished", 6 * (round_ + 1))
        bench.fault()
        kill_connections(bench)
    bench.log.write("healed")


def kill_connections(bench: Bench) -> None:
    own = {
        "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "mariadb": "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
    }
    engine = create_engine(bench.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        found = connection.exec_driver_sql(own[bench.kind]).scalars().all()
        for number in found if bench.kind == "mariadb" else ():
            connection.exec_driver_sql(f"KILL {number}")
    engine.dispose()


def restart_the_database(bench: Bench) -> None:
    """The server is stopped while tasks run, and started again when they have ended."""
    for _ in range(2):
        bench.start()
    bench.enqueuer.enqueue_some(TASKS)
    bench.hold()
    bench.fault()
    bench.host.stop()
    end_in_vain(bench)
    bench.host.start()
    bench.log.write("healed")


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    **{f"SIGKILL {point}": (partial(kill_at, point), ANY) for point in witness.POINTS},
    f"SIGKILL {witness.IN_STATEMENT}": (partial(kill_at, witness.IN_STATEMENT), ("postgresql",)),
    "SIGKILL amid 200 tasks of 50 ms": (kill_amid_many, ANY),
    "SIGKILL on another machine": (kill_elsewhere, ANY),
    "SIGKILL of an enqueuer": (kill_an_enqueuer, ANY),
    "SIGSTOP while tasks run": (stop_and_continue, ANY),
    f"SIGSTOP {witness.BEFORE_COMPLETION}": (partial(stop_at, witness.BEFORE_COMPLETION), ANY),
    f"SIGSTOP {witness.IN_COMPLETION}": (partial(stop_at, witness.IN_COMPLETION), SERVERS),
    "event loop blocked": (block_the_loop, ANY),
    "two reapers at once": (reap_at_once, ANY),
    "clock stepped forward": (partial(step_the_clock, 60.0), ANY),
    "clock stepped back": (partial(step_the_clock, -3.0), ANY),
    "disk full": (fill_the_disk, ("sqlite",)),
    "disk of the server full": (fill_the_disk_of_a_server, SERVERS),
    "database locked": (lock_the_database, ("sqlite",)),
    "connections killed": (cut_connections, SERVERS),
    "database restarted": (restart_the_database, SERVERS),
}
"""What is done, by name, and on which kinds of database it can be done."""
