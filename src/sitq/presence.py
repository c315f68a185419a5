"""How workers of one machine notice that another has died: each holds a lock on a file of its own.

The operating system lets go of the lock when the process ends, however it ends, and never before: a worker
that is merely slow, or stopped, keeps it. Whoever gets the lock of another worker's file therefore knows that
it is dead. Nothing depends on it: where it does not work, leases lapse.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("sitq.worker")

TRIES = 3
"""How often a worker tries to take its lock, if others remove the empty folder meanwhile."""

FORGOTTEN_AFTER = 3600.0
"""Seconds after which a file whose maker died while making it is removed."""


class Presence:
    """What shows that a worker is there. This one shows nothing, so that leases must tell.

    Its verbs are called in one thread after the other, and raise nothing.
    """

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id

    def show(self) -> None:
        """Let the worker be seen from now on; called again now and then, in case somebody took the sign away."""

    @contextlib.contextmanager
    def dead_workers(self) -> Iterator[list[str]]:
        """Give the ids of workers that are known to have died; they are forgotten if the block ends well."""
        yield []

    def leave(self) -> None:
        """The worker has stopped, and leaves nothing behind."""


if sys.platform == "win32":

    def file_presence(worker_id: str, folder: Path, *, private: bool = False) -> Presence:
        """Leave it to the leases: an open file cannot be removed here, nor a lock be taken without waiting."""
        return Presence(worker_id)

else:
    import fcntl

    class LockedFile(Presence):
        """A locked file in a folder that the workers of a database share."""

        def __init__(self, worker_id: str, folder: Path, *, private: bool) -> None:
            super().__init__(worker_id)
            self._folder = folder
            self._private = private
            self._path = folder / f"{worker_id}.{this_machine()}"
            self._descriptor: int | None = None
            _shown.add(self)

        def show(self) -> None:
            """Make the file and lock it, unless it is there."""
            if self._descriptor is not None and self._path.exists():
                return
            self.close()
            try:
                self._descriptor = self._make()
            except OSError as error:
                fields = {"event": "presence_failed", "error_type": type(error).__qualname__}
                logger.debug("a death of this worker will be noticed by its leases only: %s", error, extra=fields)

        def _make(self) -> int:
            for tried in range(1, TRIES + 1):
                try:
                    self._folder.mkdir(mode=0o700 if self._private else 0o777, exist_ok=True)
                    self._require_trust()
                    return self._make_in_folder()
                except FileNotFoundError:
                    if tried == TRIES:
                        raise
            raise AssertionError("the last try raises or returns")

        def _require_trust(self) -> None:
            """Refuse a folder in a place open to all, where somebody else could say that this worker is dead."""
            status = self._folder.lstat()
            if self._private and (status.st_uid != os.getuid() or status.st_mode & 0o022):
                raise PermissionError(f"{self._folder} belongs to another user, or others may write to it")

        def _make_in_folder(self) -> int:
            """Lock the file before it bears its name, so that nobody sees it without its lock."""
            new = self._path.with_suffix(".new")
            descriptor = os.open(new, os.O_CREAT | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(self._path)
            except BaseException:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    new.unlink()
                raise
            return descriptor

        @contextlib.contextmanager
        def dead_workers(self) -> Iterator[list[str]]:
            """Hold the locks of the dead meanwhile, so that nobody else does the same for them."""
            with contextlib.ExitStack() as held:
                dead = [path for path in self._files_of_others() if take_over(path, held)]
                yield [path.stem for path in dead]
                for path in dead:
                    remove(path)

        def _files_of_others(self) -> list[Path]:
            try:
                self._require_trust()
                names = os.listdir(self._folder)  # noqa: PTH208  # a worker looks often, and is alone mostly
            except OSError:
                return []
            paths = [self._folder / name for name in names if name != self._path.name]
            for path in paths:
                if path.suffix == ".new" and is_forgotten(path):
                    remove(path)
            return [path for path in paths if path.suffix == self._path.suffix]

        def leave(self) -> None:
            """Remove the file, and the folder after the last worker."""
            if self._descriptor is not None:
                remove(self._path)
                with contextlib.suppress(OSError):
                    self._folder.rmdir()
            self.close()

        def close(self) -> None:
            """Close the file; its lock goes with the last process that has it open."""
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def file_presence(worker_id: str, folder: Path, *, private: bool = False) -> Presence:
        """What shows a worker to others that look into the same folder; a ``private`` one is this user's alone."""
        return LockedFile(worker_id, folder, private=private)

    def take_over(path: Path, held: contextlib.ExitStack) -> bool:
        """Lock the file of another worker until ``held`` is closed, if its process has died; say whether it has."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            held.enter_context(opened.pop_all())
        return True

    _shown: weakref.WeakSet[LockedFile] = weakref.WeakSet()

    def _forget_inherited() -> None:
        """In a forked child: it must not keep the locks of a parent that dies."""
        for presence in list(_shown):
            presence.close()

    os.register_at_fork(after_in_child=_forget_inherited)


def shared_folder(target: str) -> Path:
    """The folder for the workers of a database on a server: for this user and this machine."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sitq-workers-{user}-{name}"


def this_machine() -> str:
    """A name for the system that is running: another machine, or the same one started anew, has another.

    A lock says nothing of processes elsewhere, although a folder may be shared with other machines.
    """
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        started = f"{os.uname().nodename if hasattr(os, 'uname') else ''}-{uuid.getnode():x}"
    return hashlib.sha256(started.strip().encode()).hexdigest()[:12]


def is_forgotten(path: Path) -> bool:
    """Whether a file has not been touched for long."""
    try:
        return path.stat().st_mtime + FORGOTTEN_AFTER < time.time()
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file, if it can be."""
    with contextlib.suppress(OSError):
        path.unlink()
