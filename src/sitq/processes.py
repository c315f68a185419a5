"""Workers as processes of their own, under a parent that passes signals on and says how each of them ends.

Each is a fresh interpreter that is told what to run through its standard input. The pipe stays open as long
as the parent lives, so that a worker whose parent was killed notices, and stops.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from types import FrameType
from typing import Any, BinaryIO, TypeAlias

from .backends.opening import open_named
from .exceptions import SitqError
from .worker import Worker

Say: TypeAlias = Callable[[str], None]
"""Where a line about the processes goes."""

LOGGED_FIELDS = ("task_id", "task_name", "attempt", "error_type", "task_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker process runs; times in seconds.

    Attributes:
        database: a path, a URL, or a backend of an app as ``module:name``.
        app_dir: the folder from which the tasks' modules are imported.
    """

    database: str
    queues: Sequence[str]
    concurrency: int
    poll_interval: float | None
    lease: float
    shutdown_timeout: float
    app_dir: str

    def check(self) -> None:
        """Raise ``ConfigurationError`` for what cannot be, and ``BackendError`` if the database cannot be opened."""
        self._let_import()
        with open_named(self.database) as backend:
            self._worker(backend)

    def run(self) -> None:
        """Work in this process until SIGINT or SIGTERM; see ``Worker.run``."""
        log_to_stderr()
        self._let_import()
        with open_named(self.database) as backend:
            self._worker(backend).run()

    def _let_import(self) -> None:
        if self.app_dir not in sys.path:
            sys.path.insert(0, self.app_dir)

    def _worker(self, backend: Any) -> Worker:
        return Worker(
            backend,
            queues=self.queues,
            concurrency=self.concurrency,
            poll_interval=self.poll_interval,
            lease=self.lease,
            shutdown_timeout=self.shutdown_timeout,
        )


class WorkerProcesses:
    """Several worker processes. One that dies is reported and not started again; the others go on."""

    def __init__(self, spec: WorkerSpec, count: int, say: Say) -> None:
        self._spec = spec
        self._count = count
        self._say = say
        self._children: list[subprocess.Popen[bytes]] = []
        self._ended: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._stopping = False

    def run(self) -> bool:
        """Run them until each has ended. Say whether all of them ended because they were asked to."""
        died = 0
        with self._passing_signals_on():
            for _ in range(self._count):
                self._start()
            for left in reversed(range(self._count)):
                died += self._report(self._ended.get(), left)
        return died == 0

    def _start(self) -> None:
        if self._stopping:
            self._count -= 1
            return
        child = start_process(self._spec)
        self._children.append(child)
        self._say(f"worker process {child.pid} started")
        threading.Thread(target=self._await_end, args=(child,), daemon=True).start()
        if self._stopping:  # the signal may have come before this child was known
            self._pass_on(child)

    def _await_end(self, child: subprocess.Popen[bytes]) -> None:
        child.wait()
        self._ended.put(child)

    def _report(self, child: subprocess.Popen[bytes], left: int) -> bool:
        """Say how a process ended, and return whether it should not have."""
        assert child.stdin is not None
        child.stdin.close()
        died = not ended_as_asked(child.returncode, stopping=self._stopping)
        if died:
            self._say(
                f"worker process {child.pid} {how_it_ended(child.returncode)}; what it ran is run again; "
                f"{left} of {self._count} processes left, none is started in its place"
            )
        else:
            self._say(f"worker process {child.pid} stopped")
        return died

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for child in self._children:
            self._pass_on(child)

    def _pass_on(self, child: subprocess.Popen[bytes]) -> None:
        # Always as SIGTERM: in an interpreter that is only starting, SIGINT would end in a traceback.
        with suppress(ProcessLookupError):
            child.terminate()


def start_process(spec: WorkerSpec) -> subprocess.Popen[bytes]:
    """Start one worker process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "sitq.processes"],
        stdin=subprocess.PIPE,
        # Not in the terminal's foreground, where it would get Ctrl-C a second time.
        process_group=0 if os.name == "posix" else None,
    )
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
        child.stdin.flush()
    return child


def ended_as_asked(returncode: int, *, stopping: bool) -> bool:
    """Whether a process stopped by itself, or by the signal that it was sent before it could handle one."""
    return stopping and returncode in (0, -signal.SIGTERM)


def how_it_ended(returncode: int) -> str:
    """What an exit code means, in words."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def serve() -> None:
    """Be a worker process: run what standard input says, and stop when it ends."""
    pipe = take_over_stdin()
    spec = WorkerSpec(**json.loads(pipe.readline()))
    threading.Thread(target=stop_at_the_end_of, args=(pipe,), daemon=True).start()
    try:
        spec.run()
    except SitqError as error:
        sys.exit(f"sitq: {error}")


def take_over_stdin() -> BinaryIO:
    """Return the pipe from the parent, and leave tasks an empty standard input."""
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return pipe


def stop_at_the_end_of(pipe: BinaryIO) -> None:
    """Wait until the parent is gone, then stop this process as SIGTERM does."""
    pipe.read()
    os.kill(os.getpid(), signal.SIGTERM)


class FieldsFormatter(logging.Formatter):
    """Writes an event's fields behind its message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        fields = ((name, getattr(record, name, None)) for name in LOGGED_FIELDS)
        return " ".join([super().format(record), *(f"{name}={value}" for name, value in fields if value is not None)])


def log_to_stderr() -> None:
    """Let this process show what sitq logs from INFO on, and what others warn of."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldsFormatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("sitq").setLevel(logging.INFO)


if __name__ == "__main__":
    serve()
