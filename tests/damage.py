"""Hurting SQLite files for real: pages overwritten, files cut short, processes killed at a line that they print."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sitq

PAGE = 4096


def filled(path: Path, tasks: int, **options: Any) -> list[str]:
    """Make a closed database with this many tasks; return their ids."""
    with sitq.SQLiteBackend(path, **options) as backend:
        return sitq.SyncTaskQueue(backend).enqueue_many(len, [(f"task {number}",) for number in range(tasks)])


def leaves(path: Path, table: str = "tasks") -> list[int]:
    """The numbers of the pages that hold the rows of a table, in the order of the rows."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    data = path.read_bytes()
    page = data[(root - 1) * PAGE : root * PAGE]
    assert page[0] == 5, "the table should have one page above its leaves"
    cells = int.from_bytes(page[3:5], "big")
    offsets = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
    pages = [int.from_bytes(page[offset : offset + 4], "big") for offset in offsets]
    return [*pages, int.from_bytes(page[8:12], "big")]


def overwrite_page(path: Path, number: int, data: bytes = b"\xff" * PAGE) -> None:
    with path.open("r+b") as file:
        file.seek((number - 1) * PAGE)
        file.write(data)


@contextmanager
def script(source: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a script beside this test, with sitq and the modules of the tests at hand; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def run_script(source: str, *arguments: object) -> str:
    """Run a script to its end and return what it printed."""
    with script(source, *arguments) as process:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output


def kill_at(process: subprocess.Popen[str], line: str) -> None:
    """Kill a process as soon as it prints this line."""
    assert process.stdout is not None
    assert process.stderr is not None
    printed = process.stdout.readline()
    assert printed == f"{line}\n", printed or process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
