"""The example that sums up a real folder: interrupted, killed, and on whatever a folder may hold."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import sitq

EXAMPLE = Path(__file__).parents[1] / "examples" / "checksum_tree.py"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to another process")
BIG = 80_000_000  # bytes; takes a while to read, and no space where holes are kept as holes


def start(folder: Path, database: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLE), str(folder), "--database", str(database), "--rows", "1000", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        try:
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    return process.returncode, out, err


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def row(digest: str, size: int, name: str) -> list[str]:
    return [digest, str(size), name]


def rows(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]


def completed(database: Path) -> dict[str, object]:
    """When each task was completed that is."""
    with sitq.SQLiteBackend(database, readonly=True) as backend:
        return {task.id: task.completed_at for task in backend.list_tasks(status="completed")}


def sparse_tree(folder: Path, how_many: int) -> Path:
    folder.mkdir()
    for number in range(how_many):
        with (folder / f"{number:03}").open("wb") as file:
            file.truncate(BIG)
            file.write(str(number).encode())
    return folder


def wait_for_completed(database: Path, how_many: int, process: subprocess.Popen[str]) -> None:
    while not database.exists():
        assert process.poll() is None, "ended too early"
        time.sleep(0.05)
    with sitq.SQLiteBackend(database) as backend:
        while backend.get_stats().completed_tasks < how_many:
            assert process.poll() is None, "ended too early"
            time.sleep(0.02)


def test_every_file_gets_its_checksum(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below" / "deep").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "below" / "deep" / "two words.txt").write_bytes(b"content\n")
    code, out, _ = finish(start(tree, tmp_path / "queue.db"))
    assert code == 0
    assert rows(out) == [
        row(hashlib.sha256(b"content\n").hexdigest(), 8, str(Path("below", "deep", "two words.txt"))),
        row(hashlib.sha256().hexdigest(), 0, "empty"),
    ]
    assert "2 files have their checksum, 8 bytes; 0 could not be read; skipped: nothing" in out


def test_what_has_its_checksum_is_not_read_again_unless_it_changed(tmp_path: Path) -> None:
    tree, database = tmp_path / "tree", tmp_path / "tree" / "queue.db"
    tree.mkdir()
    (tree / "stays").write_bytes(b"stays")
    (tree / "changes").write_bytes(b"before")
    assert finish(start(tree, database))[0] == 0
    before = completed(database)
    (tree / "changes").write_bytes(b"after it has changed")
    (tree / "new").write_bytes(b"new")
    code, out, _ = finish(start(tree, database))
    assert code == 0
    assert [line[0] for line in rows(out)] == [sha256(tree / name) for name in ("changes", "new", "stays")]
    after = completed(database)
    assert len(after) == 4
    assert before.items() <= after.items()


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_finished_by_the_next(tmp_path: Path, number: signal.Signals) -> None:
    tree, database = sparse_tree(tmp_path / "tree", 8), tmp_path / "queue.db"
    for number, size in {2: 6 * BIG, 3: 9, 4: 9, 5: 9, 6: 9}.items():
        os.truncate(tree / f"{number:03}", size)  # so that one is being read for long when the signal comes
    process = start(tree, database, "--concurrency", "1")
    wait_for_completed(database, 2, process)
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (130 if number == signal.SIGINT else -number, "")
    assert "Traceback" not in err
    done = completed(database)
    assert 2 <= len(done) < 8

    code, out, _ = finish(start(tree, database))
    assert code == 0
    assert [line[2] for line in rows(out)] == [f"{number:03}" for number in range(8)]
    assert rows(out)[7][0] == sha256(tree / "007")
    after = completed(database)
    assert len(after) == 8
    assert done.items() <= after.items()


@POSIX
def test_odd_things_are_read_counted_or_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [
        "-rf",
        "[red]not red",
        "line\nend",
        "naïve ✓",
        "\x1b[31mcolour",
        os.fsdecode(b"no\xfftext"),
        "x" * 250,
    ]
    for name in names:
        (tree / name).write_bytes(os.fsencode(name))
    (tree / "broken link").symlink_to("nowhere")
    (tree / "link to itself").symlink_to(".")
    os.mkfifo(tree / "fifo")
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(os.path.relpath(tree / "socket"))
        code, out, _ = finish(start(tree, tmp_path / "queue.db"))
    assert code == 0
    shown = [name if name.isprintable() else ascii(name) for name in sorted(names)]
    assert [(line[0], line[2]) for line in rows(out)] == [
        (hashlib.sha256(os.fsencode(name)).hexdigest(), text) for name, text in zip(sorted(names), shown, strict=True)
    ]
    assert "skipped: 1 FIFOs, 1 sockets, 2 symbolic links" in out


def test_a_queue_in_the_folder_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    code, out, _ = finish(start(tmp_path, tmp_path / "queue.db"))
    assert code == 0
    assert rows(out) == [row(hashlib.sha256(b"text").hexdigest(), 4, "file")]


@POSIX
def test_what_cannot_be_read_is_named_and_tried_again(tmp_path: Path) -> None:
    tree, database = sparse_tree(tmp_path / "tree", 3), tmp_path / "queue.db"
    process = start(tree, database, "--concurrency", "1")
    wait_for_completed(database, 1, process)
    (tree / "002").unlink()
    os.mkfifo(tree / "002")  # nobody will ever write to it
    code, out, _ = finish(process)
    assert code == 1
    assert len(rows(out)) == 2
    assert "no checksum: 002: it is no regular file any more" in out
    assert "2 files have their checksum" in out
    assert "1 could not be read" in out

    (tree / "002").unlink()
    code, out, _ = finish(start(tree, database))
    assert (code, len(rows(out))) == (0, 2)


@POSIX
def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    tree, database = sparse_tree(tmp_path / "tree", 3), tmp_path / "queue.db"
    process = start(tree, database, "--concurrency", "1")
    wait_for_completed(database, 1, process)
    (tree / "002").unlink()
    code, out, _ = finish(process)
    assert code == 1
    assert "no checksum: 002: [Errno 2] No such file or directory" in out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_files_and_folders_are_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "secret").touch(mode=0)
    (tree / "closed").chmod(0)
    code, out, _ = finish(start(tree, tmp_path / "queue.db"))
    (tree / "closed").chmod(0o700)
    assert code == 1
    assert "no checksum: closed: Permission denied" in out
    assert "no checksum: secret: [Errno 13] Permission denied" in out


def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, _, err = finish(start(tmp_path / "missing", tmp_path / "queue.db"))
    assert code == 2
    assert "is not a folder" in err
    (tmp_path / "text.db").write_text("this is a text, and no database\n" * 100)
    code, _, err = finish(start(tmp_path, tmp_path / "text.db"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is not an SQLite database" in err


def test_the_queue_is_kept_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree))
    for _ in range(2):
        done = subprocess.run([sys.executable, str(EXAMPLE), str(tree)], capture_output=True, text=True, check=True)
        assert "1 files have their checksum" in done.stdout
    assert len(list(tree.rglob("*.db"))) == 1
