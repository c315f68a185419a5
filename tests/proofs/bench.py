"""A bench for one run: a database, a log, an enqueuer, and workers that may be killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import URL

import sitq

from . import tasks
from .checker import violations
from .enqueuer import Enqueuer
from .evidence import Event, Evidence, Log, rows_of
from .victim import Settings

LONG = 60.0  # seconds; nothing waits for so long unless it is broken
HERE = Path(__file__).parents[1]


class Bench:
    """What a fault is done to.

    Attributes:
        url: the database.
        kind: of the database: ``sqlite``, ``postgresql`` or ``mariadb``.
        host: the server, where it is ours to be stopped, or the disk, where it is ours to be filled.
        folder: for files of the run.
        log: what tells of it.
        lapses: whether the fault may let leases of live workers lapse; a fault says so.
    """

    def __init__(self, url: URL, folder: Path, *, host: Any = None) -> None:
        self.url = url.render_as_string(hide_password=False)
        self.kind = url.get_backend_name().replace("mysql", "mariadb")
        self.host = host
        self.folder = folder
        self.log = Log(folder / "log")
        self.lapses = False
        self._gate = folder / "gate"
        self.workers: list[subprocess.Popen[str]] = []
        self._settings = Settings(url=self.url, log=str(self.log.path))
        backend = sitq.open_backend(url)
        assert isinstance(backend, sitq.SQLAlchemyBackend)
        self.backend = backend
        self.enqueuer = Enqueuer(backend, self.log)

    def start(self, **settings: Any) -> subprocess.Popen[str]:
        """Start a worker, and return when it works."""
        return self.run(replace(self._settings, **settings).arguments())

    def run(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a process that says when it is ready."""
        errors = (self.folder / f"errors-{len(self.workers)}").open("w")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE)
        errors.close()
        self.workers.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", self.errors()
        return process

    def errors(self) -> str:
        """What the workers wrote to standard error."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("errors-*")))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something of which there is no news."""
        give_up = time.monotonic() + LONG
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError(f"waited {LONG:g} seconds in vain for {what}\n{self.errors()}")
            time.sleep(0.02)

    def until_seen(self, what: str, count: int = 1, *, of: Callable[[Event], bool] = lambda _: True) -> None:
        """Wait until the log tells of something so many times."""
        self.until(lambda: sum(event.what == what and of(event) for event in self.log.read()) >= count, what)

    def hold(self, count: int = 4) -> None:
        """Let workers run so many tasks that do not end before their gate is opened."""
        held = set()
        for index in range(count):
            kind = tasks.hold_later if index % 2 else tasks.hold
            held.add(self.enqueuer.enqueue(kind, str(self._gate), priority=9))
        self.until_seen("began", count, of=lambda event: event.task in held)

    def release(self, *runs: str) -> None:
        """Let tasks that are held go on: their ``first`` run, ``later`` ones, or all of them."""
        for run in runs or ("first", "later"):
            Path(f"{self._gate}-{run}").touch()

    def look(self) -> None:
        """Tell the log what the database says of each task just now."""
        for row in rows_of(self.backend):
            self.log.write("seen", task=row.task, claim=row.claim, status=row.status)

    def fault(self) -> None:
        """The fault happens now."""
        self.log.write("fault")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a process, and tell of it."""
        process.kill()
        self.bury(process)

    def bury(self, process: subprocess.Popen[str]) -> None:
        """Wait for the death of a process that is to die by itself."""
        assert process.wait(LONG) == -signal.SIGKILL, self.errors()
        self.log.write("killed", process=process.pid)

    def drain(self) -> None:
        """Wait until every task in the database has ended."""
        self.until(self._drained, "the tasks to end")

    def _drained(self) -> bool:
        with contextlib.suppress(sitq.BackendError):
            stats = self.backend.get_stats()
            return not (stats.pending_tasks or stats.running_tasks)
        return False

    def stop(self) -> None:
        """Stop the workers that live, which must end well."""
        living = [worker for worker in self.workers if worker.returncode is None]
        for worker in living:
            worker.terminate()
        codes = [worker.wait(LONG) for worker in living]
        if any(codes):
            raise AssertionError(f"workers ended with {codes}: {self.errors()}")

    def violations(self) -> list[str]:
        """What must not be, and is."""
        return violations(Evidence(events=self.log.read(), rows=rows_of(self.backend), lapses=self.lapses))

    def close(self) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            worker.kill()
            worker.communicate()
        self.backend.close()
        self.log.close()


@contextmanager
def bench(url: URL, folder: Path, *, host: Any = None) -> Iterator[Bench]:
    """A bench, with tables in its database."""
    with ExitStack() as stack:
        made = Bench(url, folder, host=host)
        stack.callback(made.close)
        made.backend.initialize()
        yield made
