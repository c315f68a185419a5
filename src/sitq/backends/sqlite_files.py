"""The file behind a database: its folder, its identity, its sizes, and the disk that it is on."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from ..exceptions import BackendError, DatabasePermissionError, DatabaseReplacedError, SitqWarning

MOUNTS = Path("/proc/self/mounts")
NETWORK_TYPES = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "glusterfs", "ocfs2", "gfs2", "beegfs")
NETWORK_TOOLS = ("sshfs", "s3fs", "gcsfuse", "rclone", "davfs", "glusterfs", "cephfs", "blobfuse")

LOG, SHARED_MEMORY, JOURNAL = "-wal", "-shm", "-journal"
"""What SQLite appends to the name of a database for the files beside it."""

MEGABYTE = 1024 * 1024


class OpenedFile:
    """Remembers which file was opened, so that another one in its place is noticed.

    SQLite would go on writing into a file that was removed, and nobody would see those tasks again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else str(path)
        self._identity: tuple[int, int] | None = None

    def note(self, found: tuple[int, int] | None) -> None:
        """Remember what ``look`` found before the file was opened, or the file that opening it has made."""
        if self._identity is None:
            self._identity = found or self.look()

    def forget(self) -> None:
        """Whatever is under the path when it is opened next will do."""
        self._identity = None

    @property
    def is_open(self) -> bool:
        """Whether a file was opened."""
        return self._identity is not None

    @property
    def in_place(self) -> bool:
        """Whether no other file is where the opened one was."""
        return self._identity is None or self.look() == self._identity

    def require_in_place(self) -> None:
        """Raise ``DatabaseReplacedError`` if another file, or none, is where the opened one was."""
        if self.in_place:
            return
        state = "has been removed or renamed" if self.look() is None else "has been replaced by another file"
        raise DatabaseReplacedError(
            f"the database {self._path} {state} while it was open, and nothing was written: "
            f"close the backend, see to the file, and open it again"
        )

    def look(self) -> tuple[int, int] | None:
        """Which file is under the path just now."""
        return None if self._path is None else identity_of(self._path)


def identity_of(path: str) -> tuple[int, int] | None:
    """What tells a file from every other on this machine; ``None`` if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # before every transaction, so a Path's detour counts
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_missing(path: Path) -> bool:
    """Whether there is no such file; one that may not be looked at is not missing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


class FileSizes(NamedTuple):
    """Sizes in megabytes."""

    total: float
    log: float
    free: float


def sizes_of(path: Path) -> FileSizes:
    """How large a database is with the files beside it, how large its log, and what is free on its disk."""
    log, shared_memory = (megabytes_of(path.with_name(path.name + suffix)) for suffix in (LOG, SHARED_MEMORY))
    return FileSizes(megabytes_of(path) + log + shared_memory, log, shutil.disk_usage(path.parent).free / MEGABYTE)


def megabytes_of(path: Path) -> float:
    """The size of a file; 0 if there is none."""
    try:
        return path.stat().st_size / MEGABYTE
    except FileNotFoundError:
        return 0.0


def prepare_file(path: Path, *, read_only: bool) -> None:
    """Make the folder of a database, or require the file if it may only be read; warn of a network disk."""
    if not read_only:
        make_folder(path.parent)
    elif is_missing(path):
        raise BackendError(f"the database {path} does not exist, and readonly=True makes none")
    kind = network_disk(path)
    if kind is not None:
        warnings.warn(
            f"the database {path} is on a network disk ({kind}), where SQLite's locks do not work reliably: "
            f"tasks may run twice and the file may be damaged; move it to a local disk, or use a database server",
            SitqWarning,
            stacklevel=2,
        )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabasePermissionError(
            f"the folder {folder} of the database cannot be made: {error.strerror}"
        ) from error


def network_disk(path: Path) -> str | None:
    """The kind of network disk that a path is on, or ``None``.

    Linux tells by its table of mounts and Windows by the path; of other systems nothing is known.
    """
    if sys.platform == "win32":
        return "a share" if str(path).startswith("\\\\") else None
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    kind = mounted_type(path.resolve(), mounts)
    return kind if kind is not None and is_network_type(kind) else None


def mounted_type(path: Path, mounts: str) -> str | None:
    """The file system of the deepest mount that holds a path; of equal ones the last covers the others."""
    deepest, kind = -1, None
    for line in mounts.splitlines():
        _, folder, type_, *_ = line.split(" ")
        point = Path(unescaped(folder))
        if path.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, kind = len(point.parts), type_
    return kind


def unescaped(folder: str) -> str:
    r"""A mount point as it is, where the table writes ``\040`` for a space."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        folder = folder.replace(code, character)
    return folder


def is_network_type(kind: str) -> bool:
    """Whether a file system of this type is somewhere else."""
    return kind.startswith(NETWORK_TYPES) or kind.removeprefix("fuse.").startswith(NETWORK_TOOLS)
