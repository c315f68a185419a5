"""The health check: what it tells of a sound database, and that it tells of every other in time, without raising."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
import time
import warnings
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sitq
from damage import filled, leaves, overwrite_page
from sitq import schema
from sitq.backends import sqlite_files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


def size_on_disk(path: Path) -> float:
    return sum(part.stat().st_size for part in path.parent.glob(path.name + "*")) / 1024**2


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_fresh_backend_is_healthy(where: str, path: Path) -> None:
    with sitq.SQLiteBackend(path if where == "file" else ":memory:") as backend:
        health = backend.health_check()
    assert (health.is_healthy, health.error) == (True, None)
    assert health.schema_revision == schema.HEAD
    assert health.journal_mode == ("wal" if where == "file" else "memory")
    assert health.database_size_mb > 0
    assert health.oldest_due_at is None
    assert health.active_connections == 0


def test_the_first_look_opens_the_database(path: Path) -> None:
    backend = sitq.SQLiteBackend(path)
    assert backend.health_check().is_healthy
    assert path.exists()
    backend.close()


def test_sizes_are_those_of_the_files_and_their_disk(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        sitq.SyncTaskQueue(backend).enqueue_many(len, [("x" * 1000,)] * 300)
        health = backend.health_check()
        assert health.database_size_mb == pytest.approx(size_on_disk(path))
        assert health.wal_size_mb == pytest.approx(path.with_name("tasks.db-wal").stat().st_size / 1024**2)
        assert health.free_space_mb is not None
        assert health.free_space_mb > 0


def test_the_oldest_due_task_is_not_one_of_the_future(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        queue.options(delay=timedelta(days=1)).enqueue(len, "later")
        assert backend.health_check().oldest_due_at is None
        before = datetime.now(UTC)
        queue.enqueue(len, "now")
        queue.enqueue(len, "then")
        oldest = backend.health_check().oldest_due_at
        assert oldest is not None
        assert before <= oldest <= datetime.now(UTC)


def test_connections_in_use_are_counted_in_both_pools(path: Path) -> None:
    async def use() -> list[int]:
        async with sitq.SQLiteBackend(path) as backend:
            seen = [(await backend.ahealth_check()).active_connections]
            with backend.engine.connect(), backend.engine.connect():
                seen.append(backend.health_check().active_connections)
                async with backend.async_engine.connect():
                    seen.append((await backend.ahealth_check()).active_connections)
            return [*seen, backend.health_check().active_connections]

    assert asyncio.run(use()) == [0, 2, 3, 0]


def test_the_average_is_of_the_latest_statements_of_both_doors(path: Path) -> None:
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) SELECT max(i) FROM n"

    async def use() -> list[float]:
        async with sitq.SQLiteBackend(path) as backend:
            times = [backend.health_check().avg_query_time]
            with backend.engine.connect() as connection:
                connection.exec_driver_sql(slow).all()
            times.append(backend.health_check().avg_query_time)
            async with backend.async_engine.connect() as connection:
                for _ in range(20):
                    await connection.exec_driver_sql(slow)
            times.append(backend.health_check().avg_query_time)
            for _ in range(1_000):
                backend.has_result("x")
            return [*times, backend.health_check().avg_query_time]

    fresh, one_slow, many_slow, many_fast = asyncio.run(use())
    assert 0 < fresh < one_slow < many_slow
    assert many_fast < many_slow / 10, "old statements should have left the window"


def test_single_enqueues_count_in_the_average(path: Path) -> None:
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) SELECT max(i) FROM n"
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        with backend.engine.connect() as connection:
            connection.exec_driver_sql(slow).all()
        before = backend.health_check().avg_query_time
        for _ in range(1_000):
            queue.enqueue(len, ())
        after = backend.health_check().avg_query_time
    assert 0 < after < before / 10


def test_a_pool_that_is_used_up_does_not_stop_the_look(path: Path) -> None:
    with sitq.SQLiteBackend(path, connection_pool_size=1, max_overflow=0) as backend, backend.engine.connect():
        health = backend.health_check()
    assert (health.is_healthy, health.active_connections) == (True, 1)


def test_a_reader_is_healthy_without_a_lock_to_write(path: Path) -> None:
    filled(path, 1)
    with sitq.SQLiteBackend(path, readonly=True) as backend:
        assert backend.health_check().is_healthy


# What is not healthy.


def unhealthy(backend: sitq.SQLiteBackend, *reasons: str) -> sitq.Health:
    began = time.monotonic()
    health = backend.health_check()
    assert time.monotonic() - began < 5
    assert not health.is_healthy
    for reason in reasons:
        assert reason in str(health.error)
    return health


def test_a_locked_database_is_unhealthy_after_a_short_wait(path: Path) -> None:
    with (
        sitq.SQLiteBackend(path, connection_timeout=0.3) as backend,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        health = unhealthy(backend, str(path), "locked")
        other.execute("ROLLBACK")
        assert health.database_size_mb > 0
        assert backend.health_check().is_healthy


def test_a_lock_that_keeps_everybody_out_from_the_first_is_unhealthy_in_time(path: Path) -> None:
    filled(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        backend = sitq.SQLiteBackend(path, connection_timeout=6.0)
        unhealthy(backend, str(path), "did not answer", "lock")
        unhealthy(backend, str(path))  # waits for the same look, not one more
        other.execute("ROLLBACK")
    backend.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_file_that_hangs_is_unhealthy_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = path.with_name("mounts")
    os.mkfifo(pipe)  # opening it blocks, as a disk does that has gone away
    monkeypatch.setattr(sqlite_files, "MOUNTS", pipe)
    backend = sitq.SQLiteBackend(path)
    unhealthy(backend, "did not answer", "disk hangs")
    assert {thread.name for thread in threading.enumerate()} >= {"sitq-health"}
    pipe.write_text("")
    backend.close()


def test_a_file_that_is_gone_is_unhealthy_and_stays_gone(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        path.unlink()
        unhealthy(backend, str(path), "removed")
        assert not path.exists()


def test_a_missing_file_for_a_reader_is_unhealthy(path: Path) -> None:
    unhealthy(sitq.SQLiteBackend(path, readonly=True), "does not exist")
    assert not path.exists()


def test_a_damaged_page_is_unhealthy(path: Path) -> None:
    filled(path, 300)
    overwrite_page(path, leaves(path)[2])
    with sitq.SQLiteBackend(path) as backend:
        unhealthy(backend, str(path), "damaged")


def test_a_truncated_file_is_unhealthy(path: Path) -> None:
    filled(path, 300)
    os.truncate(path, path.stat().st_size // 2)
    unhealthy(sitq.SQLiteBackend(path), "damaged", "sitq.recover")


def test_another_file_is_unhealthy(path: Path) -> None:
    path.write_bytes(os.urandom(8192))  # as an encrypted one looks without its key
    unhealthy(sitq.SQLiteBackend(path), str(path), "encrypted")


def test_a_schema_that_may_not_be_upgraded_is_unhealthy(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend, backend._database.dialect.lock_schema(backend.engine) as connection:
        schema.downgrade(connection, "0001")
    unhealthy(sitq.SQLiteBackend(path, auto_upgrade=False), "0001", "sitq upgrade")


def test_a_check_in_a_forked_child_looks_anew(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        assert backend.health_check().is_healthy
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
            child = os.fork()
        if child == 0:
            os._exit(0 if backend.health_check().is_healthy else 1)
        assert os.waitpid(child, 0)[1] == 0


# Network disks.

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /srv/shared nfs4 rw 0 0
//nas/share /srv/with\\040space cifs rw 0 0
tmpfs /srv/shared/local tmpfs rw 0 0
user@host:/ /home/sshfs fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", None),
        ("/srv/shared/app", "nfs4"),
        ("/srv/with space", "cifs"),
        ("/srv/shared/local", None),
        ("/home/sshfs/tasks", "fuse.sshfs"),
        ("/srv/sharedother", None),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="a table of mounts is Unix")
def test_a_network_disk_is_known_by_the_deepest_mount(
    folder: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    monkeypatch.setattr(sqlite_files, "MOUNTS", table)
    assert sqlite_files.network_disk(Path(folder, "tasks.db")) == kind


@pytest.mark.skipif(sys.platform == "win32", reason="a table of mounts is Unix")
def test_a_database_on_a_network_disk_is_warned_about_at_the_first_use(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = path.with_name("mounts")
    table.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/export {path.parent} nfs rw 0 0\n")
    monkeypatch.setattr(sqlite_files, "MOUNTS", table)
    backend = sitq.SQLiteBackend(path)
    with pytest.warns(sitq.SitqWarning, match=r"tasks\.db is on a network disk \(nfs\)"):
        backend.initialize()
    backend.list_all_tasks()  # a second warning would be an error
    backend.close()


# Debugging.


def test_statements_are_logged_with_time_rows_and_a_mark_if_slow(path: Path, caplog: Any) -> None:
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT max(i) FROM n"
    with sitq.SQLiteBackend(path, log_queries=True) as backend:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [("x",)] * 3)
        with caplog.at_level("INFO", logger="sitq.sql"):
            assert backend.list_all_tasks() == ids
            assert asyncio.run(backend.alist_all_tasks()) == ids
            with backend.engine.connect() as connection:
                assert connection.exec_driver_sql(slow).scalar() == 3_000_000
    selects = [record for record in caplog.records if record.message.startswith("SELECT tasks.id")]
    assert [record.rows for record in selects] == [3, 3]
    assert all("3 rows]" in record.message and not record.slow for record in selects)
    (marked,) = [record for record in caplog.records if record.slow]
    assert marked.milliseconds >= 100
    assert marked.message.endswith("ms, 1 row, SLOW]")


def test_nothing_logged_at_debug_by_anyone_holds_a_payload(path: Path, caplog: Any) -> None:
    async def use() -> None:
        async with sitq.SQLiteBackend(path, debug=True, log_queries=True) as backend:
            queue = sitq.TaskQueue(backend)
            task_id = await queue.enqueue(len, "a secret argument")
            await queue.enqueue(dict, key="a secret argument")
            async with sitq.Worker(backend):
                await queue.get_result(task_id, timeout=30)
            await queue.list()

    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG", logger="sitq"):  # which puts its level back, too
        asyncio.run(use())
    assert "INSERT INTO tasks" in caplog.text
    assert "secret" not in caplog.text
