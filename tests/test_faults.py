"""Faults for real: after each, no acknowledged task is lost and the error is the documented one."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import sitq
from damage import filled, leaves, overwrite_page, run_script, script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs mounts, users and signals of Unix")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


# No space.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("NOT TESTED: this process may not mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def enqueue_until_it_fails(backend: sitq.SQLiteBackend) -> tuple[list[str], sitq.SitqError]:
    queue, acknowledged = sitq.SyncTaskQueue(backend), []
    while True:
        try:
            acknowledged.append(queue.enqueue(len, "x" * 20_000))
        except sitq.SitqError as error:
            return acknowledged, error


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_full_disk(small_disk: Path, mode: str) -> None:
    path = small_disk / "tasks.db"
    with sitq.SQLiteBackend(path, journal_mode=mode) as backend:
        backend.initialize()
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"\0" * 200_000)
        acknowledged, error = enqueue_until_it_fails(backend)
        assert type(error) is sitq.DatabaseFullError
        assert str(path) in str(error)
        assert isinstance(error.__cause__, Exception)
        assert len(acknowledged) > 10
        assert backend.list_all_tasks() == acknowledged
        ballast.unlink()
        acknowledged.append(sitq.SyncTaskQueue(backend).enqueue(len, "there is room again"))
        assert backend.check().ok
    with sitq.SQLiteBackend(path) as backend:
        assert backend.list_all_tasks() == acknowledged


def test_a_backup_to_a_full_disk(small_disk: Path, path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [(b"x" * 100_000,)] * 40)
        with pytest.raises(sitq.DatabaseFullError, match=r"disk/copy\.db"):
            backend.backup(small_disk / "copy.db")
        assert list(small_disk.iterdir()) == []
        assert backend.list_all_tasks() == ids


def test_a_restore_to_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    with sitq.SQLiteBackend(tmp_path / "source.db") as source:
        sitq.SyncTaskQueue(source).enqueue_many(len, [(b"x" * 100_000,)] * 40)
        source.backup(tmp_path / "copy.db")
    with sitq.SQLiteBackend(small_disk / "tasks.db") as backend:
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, "x")
        with pytest.raises(sitq.DatabaseFullError):
            backend.restore(tmp_path / "copy.db")
        assert backend.list_all_tasks() == [task_id]
        assert backend.check().ok


LIMITED = """
import resource, signal, sys, sitq
from test_faults import enqueue_until_it_fails

with sitq.SQLiteBackend(sys.argv[1]) as backend:
    backend.initialize()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    acknowledged, error = enqueue_until_it_fails(backend)
    assert type(error) is sitq.DatabaseIOError, repr(error)
    assert "limits on the size of files" in str(error)
    assert backend.list_all_tasks() == acknowledged
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    acknowledged.append(sitq.SyncTaskQueue(backend).enqueue(len, "no limit"))
    print(*acknowledged)
"""


def test_a_limit_on_the_size_of_files(path: Path) -> None:
    acknowledged = run_script(LIMITED, path).split()
    assert len(acknowledged) > 10
    with sitq.SQLiteBackend(path) as backend:
        assert backend.list_all_tasks() == acknowledged
        assert backend.check().ok


def test_a_worker_goes_on_when_the_disk_has_room_again(small_disk: Path) -> None:
    async def main() -> None:
        async with sitq.SQLiteBackend(small_disk / "tasks.db") as backend, sitq.Worker(backend, poll_interval=0.05):
            queue = sitq.TaskQueue(backend)
            ballast = small_disk / "ballast"
            first = await queue.enqueue(fill, str(ballast))
            assert await queue.result(first, timeout=30) == "made room"

    asyncio.run(main())


def fill(ballast: str) -> str:
    """Fill the disk while the task runs, so that its completion cannot be written, and make room a little later."""
    import threading

    file = Path(ballast)
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            pass
    threading.Timer(0.5, file.unlink).start()
    return "made room"


# Damage.


def test_a_damaged_page(path: Path, tmp_path: Path) -> None:
    ids = filled(path, 300)
    page = leaves(path)[3]
    overwrite_page(path, page)
    with sitq.SQLiteBackend(path) as backend:
        errors = set()
        for task_id in ids:
            try:
                assert backend.get_task(task_id) is not None
            except sitq.DatabaseCorruptError:
                errors.add(task_id)
        assert 0 < len(errors) < 100
        with pytest.raises(sitq.DatabaseCorruptError, match=r"tasks\.db is damaged.*sitq\.recover"):
            backend.get_task(errors.copy().pop())
    report = sitq.recover(path, tmp_path / "recovered.db")
    assert {rows.task_id for rows in report.lost} == errors


def test_a_truncated_file(path: Path, tmp_path: Path) -> None:
    ids = filled(path, 300)
    with sitq.SQLiteBackend(path) as backend:
        backend.backup(tmp_path / "copy.db")
    os.truncate(path, path.stat().st_size // 2)
    backend = sitq.SQLiteBackend(path)
    for verb in (backend.initialize, backend.list_all_tasks, lambda: sitq.SyncTaskQueue(backend).enqueue(len, "x")):
        with pytest.raises(sitq.DatabaseCorruptError, match="restore a backup"):
            verb()
    backend.restore(tmp_path / "copy.db")
    assert backend.list_all_tasks() == ids
    backend.close()


def test_a_file_cut_short_under_an_open_backend(path: Path) -> None:
    with sitq.SQLiteBackend(path, journal_mode="DELETE") as backend:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [("x",)] * 300)
        whole = path.read_bytes()
        os.truncate(path, len(whole) // 2)
        with pytest.raises(sitq.DatabaseCorruptError):
            sitq.SQLiteBackend(path).list_all_tasks()
        path.write_bytes(whole)
        assert backend.list_all_tasks() == ids


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"text, and not a database\n" * 400, sitq.NotADatabaseError), (os.urandom(8192), sitq.KeyMissingError)],
    ids=["text", "noise"],
)
def test_not_a_database(path: Path, content: bytes, error: type[Exception]) -> None:
    path.write_bytes(content)
    backend = sitq.SQLiteBackend(path)
    for verb in (backend.initialize, backend.list_all_tasks, lambda: sitq.SyncTaskQueue(backend).enqueue(len, "x")):
        with pytest.raises(error, match=r"tasks\.db (is not an SQLite database|seems to be encrypted)"):
            verb()
    assert path.read_bytes() == content


# Another file.


def other_database(path: Path) -> Path:
    other = path.with_name("other.db")
    filled(other, 1)
    return other


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_replaced_or_moved_under_an_open_backend(path: Path, replaced: bool) -> None:
    aside = path.with_name("aside.db")
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        acknowledged = [queue.enqueue(len, str(number)) for number in range(20)]
        path.rename(aside)
        if replaced:
            other_database(path).rename(path)
        expected = "replaced by another file" if replaced else "removed or renamed"
        writes = (lambda: queue.enqueue(len, "lost?"), lambda: queue.enqueue_many(len, [("lost?",)] * 2))
        for verb in (*writes, *writes, backend.list_all_tasks, backend.vacuum, backend.check):
            with pytest.raises(sitq.DatabaseReplacedError, match=expected):
                verb()
        with pytest.raises(sitq.DatabaseReplacedError):
            asyncio.run(backend.alist_all_tasks())
        assert expected in str(backend.health_check().error)
        assert path.exists() == replaced
    with sitq.SQLiteBackend(aside) as old:
        assert old.list_all_tasks() == acknowledged
        assert old.check().ok
    with sitq.SQLiteBackend(path) as new:
        assert len(new.list_all_tasks()) == int(replaced)


def test_a_backend_that_was_closed_takes_what_it_finds(path: Path) -> None:
    backend = sitq.SQLiteBackend(path)
    sitq.SyncTaskQueue(backend).enqueue(len, "x")
    backend.close()
    other = other_database(path)
    with sitq.SQLiteBackend(other) as another:
        ids = another.list_all_tasks()
    shutil.move(other, path)
    assert backend.list_all_tasks() == ids
    backend.close()


# No permission. The tests may run as root, whom nothing is forbidden, so another user tries.

AS_NOBODY = """
import os, sys, sitq
from pathlib import Path

with sitq.SQLiteBackend(":memory:") as warm:  # imports what this user may not read
    warm.initialize()
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)

path, options = sys.argv[1], eval(sys.argv[2])
backend = sitq.SQLiteBackend(path, **options)
for verb in (backend.list_all_tasks, lambda: sitq.SyncTaskQueue(backend).enqueue(len, "x")):
    try:
        print(type(verb()).__name__)
    except sitq.SitqError as error:
        assert str(Path(path).parent) in str(error), str(error)
        print(type(error).__name__, isinstance(error, PermissionError))
health = backend.health_check()
print(health.is_healthy, bool(health.error))
"""


def outcome_for_nobody(path: Path, **options: object) -> list[str]:
    return run_script(AS_NOBODY, path, repr(options)).splitlines()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)


def test_a_folder_that_may_not_be_written(shared: Path) -> None:
    shared.chmod(0o555)
    refused = ["DatabasePermissionError True"] * 2 + ["False True"]
    assert outcome_for_nobody(shared / "tasks.db") == refused
    assert outcome_for_nobody(shared / "deep" / "tasks.db") == refused
    assert list(shared.iterdir()) == []


def test_a_folder_that_may_not_be_entered(shared: Path) -> None:
    filled(shared / "tasks.db", 1)
    shared.chmod(0o600)
    refused = ["DatabasePermissionError True"] * 2 + ["False True"]
    assert outcome_for_nobody(shared / "tasks.db") == refused
    refused[1] = "ReadOnlyError False"
    assert outcome_for_nobody(shared / "tasks.db", readonly=True) == refused


def test_a_file_that_may_not_be_read(shared: Path) -> None:
    path = shared / "tasks.db"
    ids = filled(path, 3)
    path.chmod(0o000)
    assert outcome_for_nobody(path) == ["DatabasePermissionError True"] * 2 + ["False True"]
    path.chmod(0o644)
    with sitq.SQLiteBackend(path) as backend:
        assert backend.list_all_tasks() == ids


def test_a_file_that_may_be_read_only(shared: Path) -> None:
    path = shared / "tasks.db"
    filled(path, 3)
    path.chmod(0o444)
    shared.chmod(0o555)
    assert outcome_for_nobody(path)[1:] == ["DatabasePermissionError True", "False True"]
    assert outcome_for_nobody(path, readonly=True) == ["list", "ReadOnlyError False", "True False"]
    assert [file.name for file in shared.iterdir()] == ["tasks.db"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(sitq.DatabasePermissionError, match="cannot be made"):
        sitq.SQLiteBackend(tmp_path / "file" / "tasks.db").initialize()


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(sitq.DatabasePermissionError, match="cannot be opened"):
        sitq.SQLiteBackend(tmp_path).initialize()


# Locks.


def test_a_lock_that_does_not_end(path: Path) -> None:
    with sitq.SQLiteBackend(path, connection_timeout=0.1) as backend:
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, "x")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for verb in (
                lambda: sitq.SyncTaskQueue(backend).enqueue(len, "y"),
                lambda: backend.update_task_status(task_id, "failed"),
                backend.vacuum,
                backend.optimize,
            ):
                with pytest.raises(sitq.DatabaseLockedError, match=r"tasks\.db is locked.*connection_timeout"):
                    verb()
        assert backend.list_all_tasks() == [task_id]


# A process that dies.

WRITER = """
import sys, sitq

with sitq.SQLiteBackend(sys.argv[1], journal_mode=sys.argv[2]) as backend:
    queue = sitq.SyncTaskQueue(backend)
    while True:
        print(queue.enqueue(len, "x"), flush=True)
"""


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_killed_writer_loses_nothing_that_was_acknowledged(path: Path, mode: str) -> None:
    with script(WRITER, path, mode) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(200)]
        writer.kill()
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    with sitq.SQLiteBackend(path) as backend:
        stored = backend.list_all_tasks()
        assert stored[: len(acknowledged)] == acknowledged
        assert len(stored) <= len(acknowledged) + 1
        assert backend.check().ok
