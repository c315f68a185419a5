"""Workers that are killed, stopped for longer than their lease, or kept from the database: with real processes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sitq
from freezing import freeze, thaw
from working import LONG, gate, note, ran, reset, run, started, wait_at_gate, wait_started

SCRIPT = """
import sys
import freezing, sitq

with sitq.SQLiteBackend(sys.argv[1]) as backend:
    freezing.freeze_on_signal(backend)
    print("ready", flush=True)
    sitq.Worker(backend, lease=float(sys.argv[2]), concurrency=int(sys.argv[3])).run()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to another process")


@contextmanager
def worker_process(database: Path, *, lease: float = 30.0, concurrency: int = 10) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(database), str(lease), str(concurrency)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams, text=True, cwd=Path(__file__).parent) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def log_and_sleep(number: int, file: str) -> None:
    import time

    with open(file, "a") as log:  # noqa: PTH123  # appending a line is one write
        log.write(f"began {number}\n")
        log.flush()
        time.sleep(0.05)
        log.write(f"ended {number}\n")


async def wait_or_tell(file: str) -> str:
    """The first to run waits for a file to appear, and says so if it is cancelled meanwhile."""
    import asyncio
    from pathlib import Path

    def exists(name: str) -> bool:
        return Path(name).exists()

    def touch(name: str) -> None:
        Path(name).touch()

    if exists(f"{file}-began"):
        return "the second"
    touch(f"{file}-began")
    try:
        while not exists(f"{file}-go"):  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        touch(f"{file}-cancelled")
        raise
    return "the first"


def kill_the_worker() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


# They run in a process that cannot import this module.
for function in (log_and_sleep, wait_or_tell, kill_the_worker):
    function.__module__ = "__main__"


def until(condition: Callable[[], object], seconds: float = LONG) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def backend(database: Path) -> Iterator[sitq.SQLiteBackend]:
    with sitq.SQLiteBackend(database) as made:
        yield made


def status_of(backend: sitq.BaseBackend, task_id: str) -> str:
    return backend.get_statuses([task_id])[task_id]


def test_a_killed_worker_loses_nothing_and_only_what_ran_runs_again(
    tmp_path: Path, database: Path, backend: sitq.SQLiteBackend
) -> None:
    log = tmp_path / "log"
    log.touch()
    queue = sitq.SyncTaskQueue(backend)
    with worker_process(database) as killed, worker_process(database, concurrency=1) as other:
        freeze(other)  # so that the first has all of them
        ids = queue.enqueue_many(log_and_sleep, [(number, str(log)) for number in range(200)])
        until(lambda: log.read_text().count("ended") >= 60)
        killed.kill()
        killed.wait()
        running = {task.id for task in backend.list_tasks(status="running")}
        thaw(other)
        died = time.monotonic()
        until(lambda: any(status_of(backend, task_id) == "completed" for task_id in running), 10)
        assert time.monotonic() - died < 10  # a lease is 30 seconds; it is about one, but for a busy machine
        for task_id in ids:
            queue.result(task_id, timeout=LONG)
    began = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("began"))
    assert len(began) == 200
    assert {ids[int(number)] for number, count in began.items() if count > 1} <= running
    assert max(began.values()) == 2
    assert 1 <= len(running) <= 10


def test_the_next_worker_puts_back_at_its_start_what_the_last_one_ran(
    tmp_path: Path, database: Path, backend: sitq.SQLiteBackend
) -> None:
    queue = sitq.SyncTaskQueue(backend)
    with worker_process(database) as killed:
        task_id = queue.enqueue(wait_or_tell, str(tmp_path / "file"))
        until((tmp_path / "file-began").exists)
        killed.kill()
        killed.wait()
    assert status_of(backend, task_id) == "running"
    with worker_process(database) as following:
        assert queue.result(task_id, timeout=15) == "the second"
        following.terminate()
        following.wait()
    assert [path.name for path in tmp_path.iterdir() if "workers" in path.name] == []


def test_a_stopped_worker_is_not_taken_for_dead(tmp_path: Path, database: Path, backend: sitq.SQLiteBackend) -> None:
    queue = sitq.SyncTaskQueue(backend)
    with worker_process(database) as stopped:
        task_id = queue.enqueue(wait_or_tell, str(tmp_path / "file"))
        until((tmp_path / "file-began").exists)
        freeze(stopped)
        with worker_process(database):
            time.sleep(2)  # several looks of the other
            assert status_of(backend, task_id) == "running"
            (tmp_path / "file-go").touch()
            thaw(stopped)
            assert queue.result(task_id, timeout=LONG) == "the first"


def test_a_worker_stopped_for_longer_than_its_lease_writes_nothing_and_its_function_is_cancelled(
    tmp_path: Path, database: Path, backend: sitq.SQLiteBackend
) -> None:
    queue = sitq.SyncTaskQueue(backend)
    with worker_process(database, lease=1.0) as stale:
        task_id = queue.enqueue(wait_or_tell, str(tmp_path / "file"))
        until((tmp_path / "file-began").exists)
        freeze(stale)
        with worker_process(database, lease=1.0):
            assert queue.result(task_id, timeout=LONG) == "the second"
            thaw(stale)
            until((tmp_path / "file-cancelled").exists)
        stale.terminate()
        assert stale.wait(LONG) == 0
    assert queue.result(task_id, timeout=0) == "the second"


def test_a_task_that_kills_every_worker_fails_and_its_neighbours_do_not(
    tmp_path: Path, database: Path, backend: sitq.SQLiteBackend
) -> None:
    queue = sitq.SyncTaskQueue(backend)
    (tmp_path / "file-began").touch()
    poison = queue.options(max_crashes=2).enqueue(kill_the_worker)
    others = [queue.enqueue(wait_or_tell, str(tmp_path / "file")) for _ in range(3)]
    for _ in range(3):  # beside others, and twice alone
        with worker_process(database) as process:
            process.wait(LONG)
    with worker_process(database):
        with pytest.raises(sitq.TaskFailedError, match=r"died 2 times while it ran alone \(max_crashes=2\)") as caught:
            queue.result(poison, timeout=LONG)
        assert caught.value.error_type == "sitq.exceptions.TaskCrashedError"
        assert [queue.result(task_id, timeout=LONG) for task_id in others] == ["the second"] * 3
    task = queue.get_task(poison)
    assert (task.crash_count, task.retry_count) == (2, 0)
    assert [queue.get_task(task_id).crash_count for task_id in others] == [0, 0, 0]


def tell_pid_and_hang(file: str) -> None:
    import os
    import time
    from pathlib import Path

    Path(f"{file}.new").write_text(str(os.getpid()))
    Path(f"{file}.new").rename(file)
    while True:
        time.sleep(0.1)


tell_pid_and_hang.__module__ = "__main__"


def test_the_children_of_a_killed_worker_end_too(tmp_path: Path, database: Path, backend: sitq.SQLiteBackend) -> None:
    told = tmp_path / "told"
    with worker_process(database) as killed:
        sitq.SyncTaskQueue(backend).options(executor="process").enqueue(tell_pid_and_hang, str(told))
        until(told.exists)
        child = int(told.read_text())
        os.kill(child, 0)
        killed.kill()
        killed.wait()
        until(lambda: not is_alive(child))


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


HOLD = """
import sqlite3, sys, time

connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    connection.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    time.sleep(float(sys.argv[3]))
    connection.execute("COMMIT")
"""


@contextmanager
def locked(database: Path, seconds: float, hold: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the write lock, once or again and again."""
    command = [sys.executable, "-c", HOLD, str(database), str(seconds), str(hold)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_an_ending_outlives_a_lock_held_for_longer_than_connection_timeout(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with sitq.SQLiteBackend(database, connection_timeout=0.2) as backend, sitq.Worker(backend, lease=60):
            queue = sitq.TaskQueue(backend)
            task_id = await queue.enqueue(wait_at_gate, 1)
            await wait_started(1)
            with locked(database, 0.1, 2.0):
                gate.set()
                assert await queue.result(task_id, timeout=LONG) == 1
            assert not await asyncio.to_thread(started.acquire, blocking=False)

    reset()
    run(scenario)
    assert "round_failed" in {record.__dict__.get("event") for record in caplog.records}


def test_endings_outlive_a_storm_of_locks(database: Path) -> None:
    async def scenario() -> None:
        async with sitq.SQLiteBackend(database, connection_timeout=0.1) as backend:
            queue = sitq.TaskQueue(backend)
            ids = await queue.enqueue_many(note, [(number,) for number in range(50)])
            with locked(database, 3.0, 0.25), locked(database, 3.0, 0.25):
                async with sitq.Worker(backend, concurrency=5):
                    for number, task_id in enumerate(ids):
                        assert await queue.result(task_id, timeout=LONG) == number

    reset()
    run(scenario)
    assert sorted(ran) == list(range(50))
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'completed'").fetchone() == (50,)
    connection.close()
