"""Backup and restore: while others work, whole or not at all, and what is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import sitq
from by_hand import claim_one, run_all
from damage import filled, kill_at, leaves, overwrite_page, script
from sitq import schema
from sitq.claims import ClaimRequest, Outcome
from sitq.models import TaskStatus


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "copy.db"


@pytest.fixture(autouse=True)
def folder_of_copies(copy: Path) -> None:
    copy.parent.mkdir()


@pytest.fixture(params=["wal", "delete", "memory journal", "memory"])
def backend(request: pytest.FixtureRequest, path: Path) -> Iterator[sitq.SQLiteBackend]:
    modes = {"wal": "WAL", "delete": "DELETE", "memory journal": "MEMORY"}
    where = ":memory:" if request.param == "memory" else path
    with sitq.SQLiteBackend(where, journal_mode=modes.get(request.param)) as made:
        yield made


def rows_of(path: Path) -> list[Any]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("tasks", "results")]


def ids_in(path: Path) -> list[str]:
    return [row[0] for row in rows_of(path)[0]]


# What a backup is.


def test_a_backup_holds_every_row_in_one_file(backend: sitq.SQLiteBackend, copy: Path) -> None:
    queue = sitq.SyncTaskQueue(backend)
    ids = queue.enqueue_many(len, [(str(number),) for number in range(50)])
    run_all(backend)
    queue.options(delay=60).enqueue(len, "later")
    backend.backup(copy)
    assert list(copy.parent.iterdir()) == [copy]
    with sitq.SQLiteBackend(copy, readonly=True) as backup:
        assert backup.list_all_tasks() == backend.list_all_tasks()
        assert [backup.get_result(task_id).value for task_id in ids] == [  # type: ignore[union-attr]
            backend.get_result(task_id).value
            for task_id in ids  # type: ignore[union-attr]
        ]
        assert backup.check().ok


def test_a_backup_is_a_database_like_any(path: Path, copy: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, "four")
        asyncio.run(backend.abackup(str(copy)))
    with sitq.SQLiteBackend(copy) as backup:
        assert run_all(backup) == [task_id]


def test_progress_tells_pages(backend: sitq.SQLiteBackend, copy: Path) -> None:
    sitq.SyncTaskQueue(backend).enqueue_many(len, [(b"x" * 100_000,)] * 30)
    told: list[tuple[int, int]] = []
    backend.backup(copy, progress=lambda done, total: told.append((done, total)))
    assert len(told) > 2
    assert told == sorted(told)
    assert {total for _, total in told} == {copy.stat().st_size // 4096}
    assert told[-1][0] == told[-1][1]


def test_an_error_in_progress_ends_the_backup_and_leaves_the_old_one(path: Path, copy: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise EnoughError

    with sitq.SQLiteBackend(path) as backend:
        first = sitq.SyncTaskQueue(backend).enqueue(len, "x")
        backend.backup(copy)
        sitq.SyncTaskQueue(backend).enqueue(len, "y")
        with pytest.raises(EnoughError):
            backend.backup(copy, progress=stop)
        assert ids_in(copy) == [first]
        assert list(copy.parent.iterdir()) == [copy]
        backend.backup(copy)
        assert len(ids_in(copy)) == 2


def test_a_backup_is_of_one_moment_and_writers_go_on_meanwhile(path: Path, copy: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        before = queue.enqueue_many(len, [(b"x" * 100_000,)] * 30)
        during: list[str] = []
        backend.backup(copy, progress=lambda done, total: during.append(queue.enqueue(len, "meanwhile")))
        assert len(during) > 2
        assert ids_in(copy) == before
        assert backend.list_all_tasks() == before + during


WORK = """
import asyncio, sys, sitq

async def main(path):
    async with sitq.SQLiteBackend(path) as backend:
        async with sitq.Worker(backend, concurrency=20, poll_interval=0.02):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""

ENQUEUE = """
import sys, sitq

with sitq.SQLiteBackend(sys.argv[1]) as backend:
    queue = sitq.SyncTaskQueue(backend)
    print("ready", flush=True)
    for number in range(1_000_000):
        print(queue.enqueue(len, "x" * (number % 500)), flush=True)
"""


def test_a_backup_beside_two_workers_and_an_enqueuer_is_consistent(path: Path, copy: Path) -> None:
    acknowledged: list[str] = []
    first_hundred = threading.Event()

    def listen(lines: Any) -> None:
        for line in lines:
            acknowledged.append(line.strip())
            if len(acknowledged) == 100:
                first_hundred.set()

    with (
        sitq.SQLiteBackend(path) as backend,
        script(WORK, path) as one,
        script(WORK, path) as two,
        script(ENQUEUE, path) as enqueuer,
    ):
        for process in (one, two, enqueuer):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        listener = threading.Thread(target=listen, args=(enqueuer.stdout,))
        listener.start()
        assert first_hundred.wait(60)
        assert sitq.SyncTaskQueue(backend).get_result(acknowledged[0], timeout=60)  # by now, workers get somewhere
        for number in range(3):
            target = copy.with_name(f"{number}.db")
            known = acknowledged.copy()
            backend.backup(target)
            require_consistent(target, known)
        enqueuer.kill()
        listener.join()
        assert set(acknowledged) <= set(backend.list_all_tasks())


def require_consistent(path: Path, acknowledged: list[str]) -> None:
    with closing(sqlite3.connect(path)) as connection:

        def ask(query: str) -> set[str]:
            return {row[0] for row in connection.execute(query)}

        ended = ask("SELECT id FROM tasks WHERE status = 'completed'")
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert ended, "workers should have got somewhere"
        assert ended == ask("SELECT task_id FROM results")
        assert set(acknowledged) <= ask("SELECT id FROM tasks")
    with sitq.SQLiteBackend(path) as backup:
        assert backup.check().ok
        assert backup.health_check().is_healthy


# What is refused.


def test_a_missing_folder_is_named(path: Path, tmp_path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        with pytest.raises(sitq.DatabasePermissionError, match=r"nowhere.*does not exist"):
            backend.backup(tmp_path / "nowhere" / "copy.db")
        with pytest.raises(sitq.DatabasePermissionError, match="is the database itself"):
            backend.backup(path)
        for wrong in (":memory:", "", 3, tmp_path, "postgresql://host/db", "a\0b"):
            with pytest.raises(sitq.ConfigurationError, match="path="):
                backend.backup(wrong)  # type: ignore[arg-type]  # the point of the test


def test_a_name_that_is_in_use_is_refused(path: Path, copy: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        backend.backup(copy)
        with sitq.SQLiteBackend(copy) as user:
            sitq.SyncTaskQueue(user).enqueue(len, "x")
            with pytest.raises(sitq.DatabaseLockedError, match=r"copy\.db is in use"):
                backend.backup(copy)
        backend.backup(copy)


def test_a_damaged_database_gives_no_backup(path: Path, copy: Path) -> None:
    filled(path, 300)
    overwrite_page(path, leaves(path)[3])
    with sitq.SQLiteBackend(path) as backend:
        with pytest.raises(sitq.DatabaseCorruptError, match=r"tasks\.db is damaged"):
            backend.backup(copy)
        assert list(copy.parent.iterdir()) == []


KILLED_BACKUP = """
import sys, time, sitq

def stop(done, total):
    print("half", flush=True)
    time.sleep(60)

with sitq.SQLiteBackend(sys.argv[1]) as backend:
    backend.backup(sys.argv[2], progress=stop)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("old", [False, True])
def test_a_killed_backup_leaves_no_half_file_under_the_name(path: Path, copy: Path, old: bool) -> None:
    ids = filled(path, 20)
    if old:
        shutil.copy(path, copy)
    with sitq.SQLiteBackend(path) as backend:
        more = sitq.SyncTaskQueue(backend).enqueue_many(len, [(b"x" * 100_000,)] * 30)
        with script(KILLED_BACKUP, path, copy) as process:
            kill_at(process, "half")
        left = [file.name for file in copy.parent.iterdir() if file != copy]
        assert len(left) == 1
        assert left[0].startswith(".copy.db.")
        assert left[0].endswith(".part")
        assert copy.exists() == old
        if old:
            assert ids_in(copy) == ids
        assert backend.list_all_tasks() == ids + more
        backend.backup(copy)
        assert ids_in(copy) == ids + more


# Restore.


def test_restore_brings_back_what_was(backend: sitq.SQLiteBackend, copy: Path) -> None:
    queue = sitq.SyncTaskQueue(backend)
    ids = queue.enqueue_many(len, [("x",)] * 20)
    run_all(backend)
    backend.backup(copy)
    before = copy.read_bytes()
    queue.enqueue(len, "more")
    backend.purge(older_than=0)
    assert len(backend.list_all_tasks()) == 1
    told: list[tuple[int, int]] = []
    backend.restore(copy, progress=lambda done, total: told.append((done, total)))
    assert backend.list_all_tasks() == ids
    assert [queue.result(task_id) for task_id in ids] == [1] * 20
    assert told[-1][0] == told[-1][1] > 0
    assert copy.read_bytes() == before
    assert backend.check().ok
    queue.enqueue(len, "again")
    assert len(backend.list_all_tasks()) == 21
    assert list(copy.parent.iterdir()) == [copy]


def test_open_connections_of_other_processes_see_the_restored_rows(path: Path, copy: Path) -> None:
    look = """
import sys, sitq
with sitq.SQLiteBackend(sys.argv[1]) as backend:
    for line in sys.stdin:
        print(len(backend.list_all_tasks()), flush=True)
"""
    filled(copy, 7)
    with sitq.SQLiteBackend(path) as backend, script(look, path) as other:
        sitq.SyncTaskQueue(backend).enqueue(len, "x")
        assert other.stdin is not None
        assert other.stdout is not None
        for expected in (1, 7):
            other.stdin.write("look\n")
            other.stdin.flush()
            assert other.stdout.readline() == f"{expected}\n"
            backend.restore(copy)
        other.stdin.close()
        assert other.wait(30) == 0


def test_a_reader_in_the_middle_keeps_the_old_content_until_it_ends(path: Path, copy: Path) -> None:
    filled(copy, 7)
    with sitq.SQLiteBackend(path) as backend:
        sitq.SyncTaskQueue(backend).enqueue(len, "x")
        with backend.engine.connect() as reader:
            count = "SELECT count(*) FROM tasks"
            assert reader.exec_driver_sql(count).scalar() == 1
            backend.restore(copy)
            assert reader.exec_driver_sql(count).scalar() == 1
            reader.rollback()
            assert reader.exec_driver_sql(count).scalar() == 7


def test_running_tasks_come_up_queued_and_no_old_claim_holds(backend: sitq.SQLiteBackend, copy: Path) -> None:
    sitq.SyncTaskQueue(backend).enqueue_many(len, [("x",)] * 2)
    running = claim_one(backend)
    assert running is not None
    backend.backup(copy)
    later = claim_one(backend)  # since the backup
    assert later is not None
    backend.restore(copy)
    assert backend.get_stats().pending_tasks == 2
    outcomes = [
        Outcome(token=claim.token, status=TaskStatus.COMPLETED, at=backend.now(), value=b"")
        for claim in (running, later)
    ]
    assert backend.finish(outcomes) == [False, False]
    claims = backend.claim(ClaimRequest(later.worker_id, ("default",), 5, 30.0))
    assert [claim.id for claim in claims] == [running.id, later.id]
    assert backend.finish(outcomes) == [False, False], "the same worker's claim is another one now"


def test_a_restored_database_may_come_up_paused(backend: sitq.SQLiteBackend, copy: Path) -> None:
    queue = sitq.SyncTaskQueue(backend)
    queue.options(queue="mail").enqueue(len, "x")
    queue.pause("known")
    queue.resume("known")
    backend.backup(copy)
    asyncio.run(backend.arestore(copy, paused=True))
    assert backend.paused_queues() == ["default", "known", "mail"]
    assert claim_one(backend, "mail") is None
    queue.resume("mail")
    assert claim_one(backend, "mail") is not None


def test_workers_run_what_was_restored_without_waiting_for_their_poll(path: Path, copy: Path) -> None:
    (task_id,) = filled(copy, 1)

    async def main() -> Any:
        async with sitq.SQLiteBackend(path) as backend, sitq.Worker(backend, poll_interval=60):
            await asyncio.sleep(0.1)  # it has found nothing, and waits
            await backend.arestore(copy)
            return await sitq.TaskQueue(backend).result(task_id, timeout=20)

    assert asyncio.run(main()) == len("task 0")


@pytest.mark.parametrize("revision", schema.REVISIONS[:-1])
def test_an_older_backup_is_upgraded_and_the_file_left_alone(path: Path, copy: Path, revision: str) -> None:
    ids = filled(copy, 3)
    with sitq.SQLiteBackend(copy) as backend, backend._database.dialect.lock_schema(backend.engine) as connection:
        schema.downgrade(connection, revision)
    before = copy.read_bytes()
    with sitq.SQLiteBackend(path) as backend:
        backend.restore(copy)
        assert backend.list_all_tasks() == ids
        assert backend.health_check().schema_revision == schema.HEAD
    assert copy.read_bytes() == before


def hurt(copy: Path) -> None:
    overwrite_page(copy, leaves(copy)[1])


def cut(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def fill_with_text(copy: Path) -> None:
    copy.write_text("not a database at all\n" * 100)


def make_foreign(copy: Path) -> None:
    copy.unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("CREATE TABLE accounts (id)")


def make_foreign_namesake(copy: Path) -> None:
    make_foreign(copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("CREATE TABLE tasks (number INTEGER, title TEXT)")


def make_newer(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
        connection.commit()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (hurt, sitq.DatabaseCorruptError),
        (cut, sitq.DatabaseCorruptError),
        (fill_with_text, sitq.NotADatabaseError),
        (make_foreign, sitq.SchemaError),
        (make_foreign_namesake, sitq.ForeignTableError),
        (make_newer, sitq.SchemaTooNewError),
        (Path.unlink, sitq.BackendError),
    ],
)
@pytest.mark.parametrize("where", ["file", "memory"])
def test_what_cannot_be_restored_is_refused_and_the_data_stays(
    where: str, spoil: Any, error: type[Exception], path: Path, copy: Path
) -> None:
    filled(copy, 300)
    spoil(copy)
    with sitq.SQLiteBackend(path if where == "file" else ":memory:") as backend:
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, "x")
        with pytest.raises(error) as caught:
            backend.restore(copy)
        assert str(copy) in str(caught.value) or "tasks" in str(caught.value)
        assert backend.list_all_tasks() == [task_id]
        assert [file.name for file in path.parent.iterdir() if file.suffix not in (".db", "")] in (
            [],
            ["tasks.db-wal", "tasks.db-shm"],
            ["tasks.db-shm", "tasks.db-wal"],
        )


def test_a_lock_that_does_not_end_is_an_error_and_the_data_stays(path: Path, copy: Path) -> None:
    filled(copy, 3)
    with (
        sitq.SQLiteBackend(path, connection_timeout=0.2) as backend,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, "x")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sitq.DatabaseLockedError, match="connection_timeout"):
            backend.restore(copy)
        other.execute("ROLLBACK")
        assert backend.list_all_tasks() == [task_id]


@pytest.mark.parametrize("spoil", [cut, fill_with_text])
def test_a_database_that_cannot_be_opened_is_set_aside(spoil: Any, path: Path, copy: Path) -> None:
    filled(path, 300)
    spoil(path)
    damaged = path.read_bytes()
    ids = filled(copy, 3)
    with closing(sitq.SQLiteBackend(path)) as backend:
        backend.restore(copy)
        assert backend.list_all_tasks() == ids
        assert backend.check().ok
    (aside,) = path.parent.glob("tasks.db.damaged-*")
    assert aside.read_bytes() == damaged


def test_pages_of_another_size_fit(path: Path, copy: Path) -> None:
    ids = filled(copy, 30)
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA page_size=8192")
        connection.execute("VACUUM")
    with sitq.SQLiteBackend(path) as backend:
        backend.restore(copy)
        assert backend.list_all_tasks() == ids


KILLED_RESTORE = """
import sys, time, sitq

def stop(done, total):
    if done > total * 0.8:  # when the caches have long run over, and pages are in the file
        print("half", flush=True)
        time.sleep(60)

with sitq.SQLiteBackend(sys.argv[1], journal_mode=sys.argv[3]) as backend:
    backend.restore(sys.argv[2], progress=stop)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("mode", ["WAL", "DELETE", "MEMORY", "OFF"])
@pytest.mark.parametrize("open_elsewhere", [False, True])
def test_a_killed_restore_leaves_the_old_content(mode: str, open_elsewhere: bool, path: Path, copy: Path) -> None:
    ids = filled(path, 20, journal_mode=mode)
    with sitq.SQLiteBackend(copy) as source:
        sitq.SyncTaskQueue(source).enqueue_many(len, [(b"x" * 100_000,)] * 60)
    other = sitq.SQLiteBackend(path, journal_mode=mode)
    if open_elsewhere:
        assert other.list_all_tasks() == ids
    with script(KILLED_RESTORE, path, copy, mode) as process:
        kill_at(process, "half")
    with other:
        assert other.list_all_tasks() == ids
        assert other.check().ok
        ids.append(sitq.SyncTaskQueue(other).enqueue(len, "and on"))
        other.restore(copy)
        assert len(other.list_all_tasks()) == 60


def test_other_kinds_of_database_say_where_to_look() -> None:
    backend = sitq.SQLAlchemyBackend("postgresql+psycopg://localhost/none")
    with pytest.raises(sitq.NotAvailableError, match="vacuum is not available"):
        backend._database.dialect.vacuum()
