"""Moving house: tasks, results and paused queues go from one backend to another, whatever kinds they are.

A copy keeps no state of its own. What it finds equal in the target it passes over, so it goes on where one was
killed, and a second copy brings what came or changed since the first: copy while the old house is still lived in,
copy again when it is empty, and switch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, ParamSpec, TypeAlias, TypeVar

from .backends.base import BaseBackend
from .copy_ends import Source, Target, source_of, target_of
from .copy_report import CopyReport, Tally, name_some
from .exceptions import BackendError, InvalidArgumentError
from .options import check_bool, check_choice, check_int, refuse
from .records import Record
from .store import Written
from .unbroken import unbroken

P = ParamSpec("P")
T = TypeVar("T")
Running: TypeAlias = Literal["wait", "requeue", "error"]
"""What is done with tasks that run: they are waited for, copied as ``queued``, or refused."""

KEEP = "keep"
"""Not for users: a backup is of one moment, in which tasks run."""

CopyProgress: TypeAlias = Callable[[int, int], None]
"""Called with the tasks that are done, and how many there were when the copy began, or more."""

BATCH = 2_000
"""Tasks in a transaction, unless told otherwise."""

LARGEST_BATCH = 10_000
LOOK_AGAIN = 0.1
"""Seconds between two looks whether running tasks have ended."""

TRIES = 3
"""How often a batch is written that met rows which somebody else wrote at the same moment."""


def copy(
    source: BaseBackend,
    target: BaseBackend,
    *,
    progress: CopyProgress | None = None,
    running: Running = "wait",
    verify: bool = True,
    batch: int = BATCH,
) -> CopyReport:
    """Copy every task, with its result, and the pauses of queues from one backend to another.

    Ids and every column are kept. The source is only read, and may go on taking tasks: what it takes behind the
    copy's back comes with the next copy. Each batch is committed by itself; after a kill, copy again. A task of
    the target that has got further in its life than the source's stays as it is, and a queue that was resumed in
    the target is not paused again. What the target alone has is left alone.

    Args:
        source: the backend to read; a backend of your own needs the verbs of the documented migration loop.
        target: the backend to write to; its tables are made if they are missing.
        progress: called after each batch with the tasks done and how many there are; what it raises ends the copy.
        running: what to do with tasks that run. ``"wait"`` copies them when they have ended or wait again, and at
            once as ``queued`` if their lease has lapsed; ``"requeue"`` copies them as ``queued``, so that they may
            run twice; ``"error"`` refuses to copy.
        verify: whether to read back what was written, and compare.
        batch: tasks in a transaction, from 1 to 10,000; fewer where they are large.

    Returns:
        What was done. Look at ``complete``.

    Raises:
        InvalidArgumentError: an argument is not allowed, or source and target are the same.
        BackendError: a task runs and ``running="error"``, or one of the databases refused or was away.
    """
    return job_of(source, target, progress=progress, running=running, verify=verify, batch=batch).run()


async def acopy(
    source: BaseBackend,
    target: BaseBackend,
    *,
    progress: CopyProgress | None = None,
    running: Running = "wait",
    verify: bool = True,
    batch: int = BATCH,
) -> CopyReport:
    """``copy`` without blocking the event loop; ``progress`` is called in another thread.

    When it is cancelled, it ends after the batch that is being written.
    """
    job = job_of(source, target, progress=progress, running=running, verify=verify, batch=batch)
    return await unbroken(asyncio.to_thread(job.run), job.stop)


def job_of(
    source: BaseBackend,
    target: BaseBackend,
    *,
    progress: CopyProgress | None,
    running: str,
    verify: bool,
    batch: int,
) -> CopyJob:
    """Check the arguments of a copy."""
    for option, backend in (("source", source), ("target", target)):
        if not isinstance(backend, BaseBackend):
            refuse(option, backend, "a backend")
    if source is target:
        raise InvalidArgumentError("source and target are the same backend: give two")
    return CopyJob(
        source_of(source),
        target_of(target),
        progress=progress,
        running=check_choice("running", running, ("wait", "requeue", "error")),
        verify=check_bool("verify", verify),
        batch=check_int("batch", batch, at_least=1, at_most=LARGEST_BATCH),
    )


class StoppedError(Exception):
    """The copy was told to stop; what it wrote stays, and the next one goes on from there."""


class CopyJob:
    """One copy, from the first page to the report."""

    def __init__(
        self,
        source: Source,
        target: Target,
        *,
        progress: CopyProgress | None = None,
        running: str = KEEP,
        verify: bool = True,
        batch: int = BATCH,
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._running = running
        self._verify = verify
        self._batch = batch
        self._stopped = threading.Event()
        self._reader = ThreadPoolExecutor(1, "sitq-copy")
        self._total = 0
        self._tally = Tally()

    def stop(self) -> None:
        """Let ``run`` end with an error after the batch that it is writing."""
        self._stopped.set()

    def run(self) -> CopyReport:
        """Copy everything, and say what was done."""
        began = time.perf_counter()
        with self._reader:
            paused = self._copy()
        self._target.tell()
        return self._tally.report(seconds=time.perf_counter() - began, paused=paused, verify=self._verify)

    def _copy(self) -> int:
        """Copy everything; return how many queues were paused."""
        self._total = self._read(self._source.count)
        if self._running == "error":
            self._refuse_running(self._read(self._source.first_running))
        # First, so that no worker of the target takes what comes.
        paused = self._target.pause(self._read(self._source.paused))
        self._wait_for(self._copy_pages())
        self._report_progress()
        return paused

    def _read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read from the source in the one thread that does, since it may be one connection."""
        return self._reader.submit(method, *args, **kwargs).result()

    def _copy_pages(self) -> set[str]:
        """Copy page by page; return the ids of running tasks that were left out."""
        left: set[str] = set()
        following = self._reader.submit(self._source.page, None, self._batch)
        while page := following.result():
            # The next page is read while the target's server works on this one.
            following = self._reader.submit(self._source.page, page[-1].id, self._batch)
            running = {record.id for record in page if record.is_running} if self._running != KEEP else set()
            left |= self._copy_batch(page, running)
        return left

    def _copy_batch(self, page: Sequence[Record], running: Collection[str]) -> set[str]:
        """Copy a batch but for running tasks that are to be waited for; return the ids of these."""
        self._go_on()
        waited_for = {record.id for record in page if record.id in running and self._is_waited_for(record)}
        ready = [
            record.given_up() if record.id in running else record for record in page if record.id not in waited_for
        ]
        written = self._write(ready)
        self._tally.add(written, running)
        if self._verify:
            self._check(written)
        self._report_progress()
        return waited_for

    def _is_waited_for(self, record: Record) -> bool:
        if self._running == "error":
            self._refuse_running(record.id)
        return self._running == "wait" and not self._source.has_lapsed(record)

    def _wait_for(self, left: set[str]) -> None:
        """Copy running tasks as they end."""
        while left:
            if self._stopped.wait(LOOK_AGAIN):
                self._go_on()
            records = self._read(self._source.records, sorted(left))
            running = {record.id for record in records if record.is_running}
            held = {record.id for record in records if record.is_running and not self._source.has_lapsed(record)}
            for start in range(0, len(records), self._batch):
                ready = [record for record in records[start : start + self._batch] if record.id not in held]
                if ready:
                    self._copy_batch(ready, running)
            left = held

    def _write(self, records: Sequence[Record]) -> Written:
        """Write a batch. Where another task of the target has a unique key, that one is brought up to date first."""
        written = self._write_once(records)
        holders = {holder for _, holder in written.held}
        if not holders:
            return written
        newer = [record for record in self._read(self._source.records, sorted(holders)) if not record.is_running]
        self._write_once(newer)
        again = self._write_once([record for record, _ in written.held])
        return written.followed_by(again)

    def _write_once(self, records: Sequence[Record]) -> Written:
        for tried in range(1, TRIES + 1):
            try:
                return self._target.write(records)
            except BackendError as error:
                if tried == TRIES or not met_another_row(error):
                    raise
        raise AssertionError("the last try has returned or raised")

    def _check(self, written: Written) -> None:
        """Read back what is to be in the target by now, and compare."""
        began = time.perf_counter()
        sent = [*written.plan.new, *(record for record, _ in written.plan.changed), *written.plan.same]
        found = {record.id: record for record in self._target.records([record.id for record in sent])}
        tally = self._tally
        for record in sent:
            checksum, back = record.checksum(), found.get(record.id)
            # A worker of the target may have gone on with it since.
            if back is None or (back.checksum() != checksum and not back.stage > record.stage):
                name_some(tally.differing_ids, [record.id])
            tally.checksum += checksum
        tally.checked += len(sent)
        tally.verify_seconds += time.perf_counter() - began

    def _refuse_running(self, task_id: str | None) -> None:
        if task_id is not None:
            raise BackendError(
                f"task {task_id} of the source is running: stop its workers, or give running='wait' or 'requeue'"
            )

    def _report_progress(self) -> None:
        if self._progress is not None:
            done = self._tally.done
            self._progress(done, max(done, self._total))

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise StoppedError


def met_another_row(error: BackendError) -> bool:
    """Whether a statement was refused for a row that somebody else had written first: every driver calls it so."""
    cause = error.__cause__
    return cause is not None and any(kind.__name__ == "IntegrityError" for kind in type(cause).__mro__)
