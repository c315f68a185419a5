"""Checksum every file of a folder: one task for each file, in a queue that outlives any interruption.

    python examples/checksum_tree.py [FOLDER] [--database FILE] [--concurrency N] [--rows N]

FOLDER is the project that this file belongs to, unless another is named. Every regular file below it gets a
SHA-256; symbolic links are not followed, and links, sockets, FIFOs and devices are counted, not read.

It may be interrupted at any moment, with Ctrl-C or by kill -9. Started again, it finishes the rest: a file
that has its checksum is read again only if its size or its time of change has become another, and a file
that could not be read is tried again. After a kill, so are the files that were being read; on Windows they
wait some seconds for their leases to lapse. Ctrl-C waits for the files that are being read; a second one does not.

The queue is kept in the user's cache folder, a file for each FOLDER, unless ``--database`` names another. If
it lies in the FOLDER it is left out.

Exit codes:
    0: every file has its checksum.
    1: some files or folders could not be read; the others are done.
    2: it could not run: no such folder, or a database that cannot be used.
    130: it was interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import sitq

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError:
    sys.exit("this example draws with rich, which is not installed: pip install '.[cli]' in a checkout")

LEASE = 5.0
"""Seconds after which the files that a killed run was reading are read again."""

WAITED_FOR = 500
"""How many tasks are waited for at a time."""

KINDS = {
    stat.S_IFLNK: "symbolic links",
    stat.S_IFIFO: "FIFOs",
    stat.S_IFSOCK: "sockets",
    stat.S_IFCHR: "devices",
    stat.S_IFBLK: "devices",
}


class File(NamedTuple):
    """A file as it was found; one that has changed since is another one.

    Attributes:
        path: below the folder.
        size: in bytes.
        changed: when its content was last changed, in nanoseconds.
    """

    path: str
    size: int
    changed: int


class Problem(NamedTuple):
    """What has no checksum, and why."""

    path: str
    reason: str


class Walk:
    """A walk through a folder, and what it came across that has no checksum."""

    def __init__(self, folder: str, database: str) -> None:
        self.folder = folder
        self.skipped: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self._own = {database + suffix for suffix in ("", "-wal", "-shm", "-journal", "-workers", "-listeners")}

    def files(self) -> Iterator[File]:
        """Give every regular file but those of the queue itself."""
        folders = [self.folder]
        while folders:
            for entry in self._entries(folders.pop()):
                found = None if entry.path in self._own else self._look(entry)
                if found is None:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    folders.append(entry.path)
                elif not stat.S_ISREG(found.st_mode):
                    self.skipped[KINDS.get(stat.S_IFMT(found.st_mode), "other things")] += 1
                else:
                    yield File(os.path.relpath(entry.path, self.folder), found.st_size, found.st_mtime_ns)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._note(folder, error)
            return []

    def _look(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        try:
            return entry.stat(follow_symlinks=False)
        except OSError as error:
            self._note(entry.path, error)
            return None

    def _note(self, path: str, error: OSError) -> None:
        self.problems.append(Problem(os.path.relpath(path, self.folder), error.strerror or str(error)))


def checksum(folder: str, path: str, size: int, changed: int) -> str:
    """The task: return the SHA-256 of a file, in hexadecimal. ``size`` and ``changed`` only tell tasks apart."""
    # Since it was found, the file may have become a link, or a FIFO that nobody writes to.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(Path(folder, path), flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file any more")
        return hashlib.file_digest(file, "sha256").hexdigest()


async def known_tasks(queue: sitq.TaskQueue, folder: str) -> dict[File, sitq.Task]:
    """The tasks that earlier runs enqueued for this folder; of several for one file, the newest."""
    known: dict[File, sitq.Task] = {}
    for task in reversed(await queue.list(name=f"{checksum.__module__}.{checksum.__qualname__}")):
        its_folder, *file = queue.serializer.load_value(task.args)
        if its_folder == folder:
            known[File(*file)] = task
    return known


async def enqueue_rest(queue: sitq.TaskQueue, walk: Walk) -> dict[str, File]:
    """Enqueue a task for each file that has none, and those that failed again; return all by their ids."""
    known = await known_tasks(queue, walk.folder)
    files: dict[str, File] = {}
    new: list[File] = []

    def unknown() -> Iterator[tuple[str, str, int, int]]:
        for file in walk.files():
            if file in known:
                files[known[file].id] = file
            else:
                new.append(file)
                yield (walk.folder, *file)

    files |= zip(await queue.enqueue_many(checksum, unknown()), new, strict=True)
    await queue.retry(
        [task.id for task in known.values() if task.id in files and task.status in ("failed", "cancelled")]
    )
    return files


async def collect(queue: sitq.TaskQueue, files: dict[str, File]) -> dict[File, sitq.Result]:
    """Wait until every task has ended, with a bar that shows how far it is."""
    columns = (TextColumn("checksums"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results: dict[File, sitq.Result] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("checksums", total=len(files))
        # Some at a time, in the order in which they run: each look asks for all that are waited for.
        ids = iter(files)
        while some := list(islice(ids, WAITED_FOR)):
            async for result in queue.as_completed(some):
                results[files[result.task_id]] = result
                progress.advance(bar)
    return results


async def run(folder: str, database: str, concurrency: int, rows: int) -> int:
    """Do it all; return the exit code."""
    # Named in the summary; a line in between would tear the bar.
    logging.getLogger("sitq.worker").addFilter(lambda record: getattr(record, "event", "") != "task_failed")
    walk = Walk(folder, database)
    checksums: dict[File, str] = {}
    async with sitq.SQLiteBackend(database) as backend:
        queue = sitq.TaskQueue(backend)
        async with sitq.Worker(backend, concurrency=concurrency, poll_interval=0.05, lease=LEASE):
            results = await collect(queue, await enqueue_rest(queue, walk))
    problems = list(walk.problems)
    for file, result in results.items():
        if result.is_error:
            problems.append(Problem(file.path, (result.error_message or "unknown").partition("\n")[0]))
        else:
            checksums[file] = queue.serializer.load_value(result.value)
    show(checksums, problems, walk.skipped, rows)
    return 1 if problems else 0


def show(checksums: dict[File, str], problems: list[Problem], skipped: Counter[str], rows: int) -> None:
    """Print the table, what went wrong, and the sums."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # whatever reads it finds each file on one line
    table = Table("sha256", "bytes", "file")
    table.columns[1].justify = "right"
    table.columns[2].overflow = "fold"
    for file in sorted(checksums)[:rows]:
        table.add_row(checksums[file], str(file.size), Text(printable(file.path)))
    console.print(table)
    if len(checksums) > rows:
        console.print(f"... and {len(checksums) - rows} more: --rows {len(checksums)} shows them all")
    for problem in sorted(problems):
        console.print(Text(f"no checksum: {printable(problem.path)}: {printable(problem.reason)}", style="red"))
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())) or "nothing"
    console.print(
        f"{len(checksums)} files have their checksum, {sum(file.size for file in checksums)} bytes; "
        f"{len(problems)} could not be read; skipped: {left_out}"
    )


def printable(text: str) -> str:
    """The text as a terminal may be given it; a name may hold line ends, colours, or bytes that are no text."""
    return text if text.isprintable() else ascii(text)


def default_database(folder: str) -> Path:
    """A file in the user's cache folder, another one for each folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sitq" / "checksum_tree" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.db"


def parse() -> argparse.Namespace:
    """Read the command line; end with exit code 2 if it cannot be."""
    parser = argparse.ArgumentParser(
        description="Checksum every file of a folder, with a queue that can be interrupted."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1], help="default: this project")
    parser.add_argument("--database", type=Path, help="where the queue is kept (default: in the user's cache folder)")
    parser.add_argument("--concurrency", type=int, default=os.cpu_count() or 1, help="how many files are read at once")
    parser.add_argument("--rows", type=int, default=40, help="how many rows of the table are printed (default: 40)")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{printable(str(options.folder))} is not a folder")
    return options


def main() -> int:
    """Run the command; return its exit code."""
    options = parse()
    folder = os.path.realpath(options.folder)
    database = os.path.realpath(options.database or default_database(folder))
    try:
        return asyncio.run(run(folder, database, options.concurrency, max(0, options.rows)))
    except KeyboardInterrupt:
        print("\ninterrupted: what is done stays done; start it again to finish the rest", file=sys.stderr)
        return 130
    except sitq.SitqError as error:
        print(f"checksum_tree: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
