"""``worker.run()`` in a process of its own, and its signals."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sitq

SCRIPT = """
import sys
import sitq, sitq.signals

sitq.signals.KILL_AFTER = float(sys.argv[2])
backend = sitq.SQLiteBackend(sys.argv[1])
sitq.Worker(backend, poll_interval=0.05).run()
backend.close()
print("ended", flush=True)
"""

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to another process")


@contextmanager
def worker_process(
    database: Path, *, kill_after: float = 30.0, script: str = SCRIPT
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, str(database), str(kill_after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def say_and_wait(message: str, file: str) -> str:
    import time
    from pathlib import Path

    print(f"{message}\n", end="", flush=True)  # in one piece, beside others
    while not Path(file).exists():
        time.sleep(0.01)
    return message


async def say_and_wait_on_the_loop(message: str, file: str) -> str:
    import asyncio
    from pathlib import Path

    print(f"{message}\n", end="", flush=True)  # in one piece, beside others
    while not Path(file).exists():  # noqa: ASYNC110, ASYNC240  # another process makes it
        await asyncio.sleep(0.01)
    return message


async def say_and_block(message: str, file: str) -> str:
    return say_and_wait(message, file)


# They run in a process that cannot import this module.
for function in (say_and_wait, say_and_wait_on_the_loop, say_and_block):
    function.__module__ = "__main__"


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_tasks_end(tmp_path: Path, number: signal.Signals) -> None:
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend, worker_process(tmp_path / "tasks.db") as process:
        queue = sitq.SyncTaskQueue(backend)
        ids = [
            queue.enqueue(function, "started", str(tmp_path / "go"))
            for function in (say_and_wait, say_and_wait_on_the_loop)
        ]
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in ids] == ["started\n"] * 2
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        late = queue.enqueue(say_and_wait, "late", "/")
        (tmp_path / "go").touch()
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "ended\n", "")
        assert [queue.result(task_id, timeout=0) for task_id in ids] == ["started"] * 2
        assert backend.get_statuses([late]) == {late: "queued"}


@POSIX
def test_a_second_signal_stops_at_once_and_gives_tasks_back(tmp_path: Path) -> None:
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend, worker_process(tmp_path / "tasks.db") as process:
        queue = sitq.SyncTaskQueue(backend)
        ids = [
            queue.enqueue(function, "started", str(tmp_path / "never"))
            for function in (say_and_wait, say_and_wait_on_the_loop)
        ]
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in ids] == ["started\n"] * 2
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, "ended\n")
        assert backend.get_statuses(ids) == dict.fromkeys(ids, "queued")


@POSIX
def test_a_second_signal_ends_a_process_whose_loop_is_blocked(tmp_path: Path) -> None:
    database = tmp_path / "tasks.db"
    with sitq.SQLiteBackend(database) as backend, worker_process(database, kill_after=0.3) as process:
        sitq.SyncTaskQueue(backend).enqueue(say_and_block, "started", str(tmp_path / "never"))
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.returncode == -signal.SIGTERM


@POSIX
def test_an_idle_process_ends_at_the_first_signal(tmp_path: Path) -> None:
    with sitq.SQLiteBackend(tmp_path / "tasks.db") as backend, worker_process(tmp_path / "tasks.db") as process:
        (tmp_path / "go").touch()
        queue = sitq.SyncTaskQueue(backend)
        assert queue.result(queue.enqueue(say_and_wait, "ran", str(tmp_path / "go")), timeout=30) == "ran"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "ran\nended\n", "")


@POSIX
def test_the_collector_passes_over_what_was_loaded_while_a_worker_runs(tmp_path: Path) -> None:
    file = tmp_path / "tasks.db"
    with sitq.SQLiteBackend(file) as backend:
        queue = sitq.SyncTaskQueue(backend)
        # An app that has frozen its own part is left with it.
        for frozen, begin in (("gc.get_freeze_count() == 0", ""), ("gc.get_freeze_count() > 0", "gc.freeze()")):
            task_id = queue.enqueue(gc.get_freeze_count)
            script = f"import gc; {begin}\n{SCRIPT}\nassert {frozen}"
            with worker_process(file, script=script) as process:
                passed_over = queue.result(task_id, timeout=30)
                process.send_signal(signal.SIGTERM)
                output, errors = process.communicate(timeout=30)
            assert (process.returncode, output, errors) == (0, "ended\n", "")
            assert passed_over > 10_000
