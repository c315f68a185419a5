"""Encrypted SQLite: ciphertext on disk, an error of its own for each mismatch, and a key that nothing shows."""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq import SQLiteBackend, SyncTaskQueue
from sitq.backends import sqlite_dialect, sqlite_rekeying
from sitq.ids import new_id
from sitq.secret import Secret
from sitq.testing import BackendContract

KEY, OTHER_KEY = "the passphrase of these tests", "the passphrase that comes after it"
ARGUMENT = "an argument that is nobody's business " * 20

_empty: dict[str, bytes] = {}
"""A file with the tables in it, since making them takes most of the time."""


class TestEncryptedSQLite(BackendContract):
    @pytest.fixture(autouse=True)
    def cheap_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Derive keys in no time; the tests below do it as it is done."""
        monkeypatch.setattr("sitq.backends.sqlite_encryption.ITERATIONS", 1)

    def make_backend(self, folder: Path) -> SQLiteBackend:
        folder.mkdir(exist_ok=True)
        path = folder / "tasks.db"
        backend = encrypted(path)
        if "empty" not in _empty:
            backend.initialize()
            backend.close()
            _empty["empty"] = path.read_bytes()
        path.write_bytes(_empty["empty"])
        return backend


def encrypted(path: Path, key: str = KEY, **options: Any) -> SQLiteBackend:
    return SQLiteBackend(path, encryption_key=key, cipher="AES-256", **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def filled(path: Path) -> str:
    """The id of a task in an encrypted file that is closed."""
    return fill(encrypted(path))


def fill(backend: SQLiteBackend) -> str:
    with backend:
        return SyncTaskQueue(backend).enqueue(print, ARGUMENT)


def is_readable(path: Path, task_id: str, key: str | None) -> bool:
    with SQLiteBackend(path, encryption_key=key) as backend:
        task = backend.get_task(task_id)
        return task is not None and ARGUMENT.encode() in (task.args or b"")


def bytes_beside(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}


# What is on the disk.


def test_file_log_and_backup_are_ciphertext(path: Path) -> None:
    backup = path.with_name("backup.db")
    with encrypted(path) as backend:
        SyncTaskQueue(backend).enqueue(print, ARGUMENT)
        asyncio.run(sitq.TaskQueue(backend).enqueue(print, ARGUMENT))
        backend.backup(backup)
        on_disk = bytes_beside(path)
        assert len(on_disk["tasks.db-wal"]) > len(ARGUMENT)
    on_disk |= {f"closed {name}": data for name, data in bytes_beside(path).items()}
    assert {"tasks.db", "tasks.db-wal", "backup.db", "closed tasks.db"} <= on_disk.keys()
    for name, data in on_disk.items():
        assert b"nobody's business" not in data, name
        assert b"CREATE TABLE" not in data, name
        assert not data.startswith(b"SQLite format 3"), name


def test_a_plain_file_would_have_failed_that_test(path: Path) -> None:
    fill(SQLiteBackend(path))
    assert b"nobody's business" in path.read_bytes()


@pytest.mark.parametrize("journal_mode", ["DELETE", "TRUNCATE", "PERSIST"])
def test_a_rollback_journal_is_ciphertext(path: Path, journal_mode: str) -> None:
    with encrypted(path, journal_mode=journal_mode) as backend:
        task_id = SyncTaskQueue(backend).enqueue(print, ARGUMENT)
        with backend.engine.connect() as connection:
            connection.exec_driver_sql("UPDATE tasks SET priority = priority + 1")
            connection.exec_driver_sql("PRAGMA cache_spill=ON")
            journal = bytes_beside(path)["tasks.db-journal"]
            connection.rollback()
        assert b"nobody's business" not in journal
        assert backend.get_task(task_id) is not None


def test_the_key_opens_the_file_again_through_both_doors(path: Path, filled: str) -> None:
    with encrypted(path) as backend:
        assert backend.get_task(filled) is not None
        assert asyncio.run(backend.aget_task(filled)) is not None
    with encrypted(path, readonly=True) as reader:
        assert reader.get_task(filled) is not None
        with pytest.raises(sitq.ReadOnlyError):
            SyncTaskQueue(reader).enqueue(print)


def test_the_key_is_a_passphrase_of_sqlcipher(path: Path, filled: str) -> None:
    """What the program sqlcipher does with ``PRAGMA key = '...'``."""
    from sqlcipher3 import dbapi2

    connection = dbapi2.connect(str(path))
    connection.execute(f"PRAGMA key='{KEY}'")
    assert connection.execute("SELECT id FROM tasks").fetchall() == [(filled,)]
    connection.close()


def test_errors_of_the_driver_are_translated(path: Path, filled: str) -> None:
    with encrypted(path, connection_timeout=0.05) as backend, encrypted(path) as other:
        twice = {"id": filled, "function": b"", "created_at": backend.now(), "name": "x", "queue": "default"}
        twice |= {"priority": 0, "max_retries": 0}
        for enqueue in (backend.enqueue, lambda rows: asyncio.run(backend.aenqueue(rows))):
            with pytest.raises(sitq.BackendError, match="UNIQUE"):
                enqueue([twice])
        with other.engine.connect() as connection:
            connection.exec_driver_sql("DELETE FROM results")
            with pytest.raises(sitq.DatabaseLockedError):
                backend.enqueue([twice | {"id": new_id()}])
            connection.rollback()


def test_a_damaged_page_is_told_from_a_wrong_key(path: Path) -> None:
    with encrypted(path) as backend:
        SyncTaskQueue(backend).enqueue_many(print, [(ARGUMENT,)] * 500)
    data = bytearray(path.read_bytes())
    for page in range(3, len(data) // 4096):
        data[page * 4096 + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(sitq.DatabaseCorruptError):
        encrypted(path).list_tasks()


def test_many_processes_may_make_the_file_at_once(path: Path) -> None:
    make = (
        f"import sys, sitq; sitq.SyncTaskQueue(sitq.SQLiteBackend(sys.argv[1], encryption_key={KEY!r})).enqueue(print)"
    )
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", make, str(path)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    with encrypted(path) as backend:
        assert len(backend.list_all_tasks()) == 3


# A key and a file that do not go together.


def without_key(path: Path) -> SQLiteBackend:
    return SQLiteBackend(path)


def with_wrong_key(path: Path) -> SQLiteBackend:
    return encrypted(path, "another")


MISMATCHES = {
    "wrong key": (encrypted, with_wrong_key, sitq.WrongKeyError, "cannot be read with this encryption_key"),
    "no key": (encrypted, without_key, sitq.KeyMissingError, "unless it is encrypted"),
    "plain file": (without_key, encrypted, sitq.NotEncryptedError, "is not encrypted"),
}
VERBS: dict[str, Callable[[SQLiteBackend], Any]] = {
    "initialize": lambda backend: backend.initialize(),
    "enqueue": lambda backend: SyncTaskQueue(backend).enqueue(print),
    "aget_task": lambda backend: asyncio.run(backend.aget_task("x")),
    "rekey": lambda backend: backend.rekey("a new one"),
    "restore": lambda backend: backend.restore(Path(str(backend._database.target) + ".backup")),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_each_mismatch_has_its_error_and_leaves_the_file_alone(path: Path, mismatch: str, verb: str) -> None:
    make, open_wrongly, error, message = MISMATCHES[mismatch]
    with make(path) as backend:
        backend.initialize()
        backend.backup(f"{path}.backup")
    before = bytes_beside(path)
    with pytest.raises(error, match=message) as caught:
        VERBS[verb](open_wrongly(path))
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, sitq.EncryptionError)
    assert bytes_beside(path) == before


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_a_mismatch_is_bad_health(path: Path, mismatch: str) -> None:
    make, open_wrongly, _, message = MISMATCHES[mismatch]
    fill(make(path))
    health = open_wrongly(path).health_check()
    assert not health.is_healthy
    assert message in (health.error or "")


def test_health_of_an_encrypted_database(path: Path, filled: str) -> None:
    with encrypted(path) as backend:
        health = backend.health_check()
        assert (health.is_healthy, health.error, health.journal_mode) == (True, None, "wal")
        assert backend.check().ok


def test_a_backup_with_another_key_is_not_restored(path: Path, filled: str) -> None:
    backup = path.with_name("backup.db")
    fill(encrypted(backup, OTHER_KEY))
    plain = path.with_name("plain.db")
    fill(SQLiteBackend(plain))
    with encrypted(path) as backend:
        with pytest.raises(sitq.WrongKeyError, match=backup.name):
            backend.restore(backup)
        with pytest.raises(sitq.NotEncryptedError, match=plain.name):
            backend.restore(plain)
        assert backend.list_all_tasks() == [filled]


def test_a_backup_is_restored(path: Path, filled: str) -> None:
    backup = path.with_name("backup.db")
    with encrypted(path) as backend:
        backend.backup(backup)
        SyncTaskQueue(backend).enqueue(print, "later")
        backend.restore(backup)
        assert backend.list_all_tasks() == [filled]
    assert is_readable(backup, filled, KEY)


def test_a_text_is_not_taken_for_an_encrypted_database(path: Path) -> None:
    path.write_bytes(b"a letter to my grandmother.\n" * 4096)
    with pytest.raises(sitq.NotADatabaseError):
        SQLiteBackend(path).initialize()


def test_without_the_extra_the_constructor_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_sqlcipher(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("sqlcipher3"):
            raise ModuleNotFoundError(name)
        return imported(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_sqlcipher)
    monkeypatch.setitem(sys.modules, "sqlcipher3.dbapi2", None)  # type: ignore[arg-type]  # as Python marks what is missing
    with pytest.raises(sitq.NotAvailableError, match=r"\.\[encryption\]"):
        encrypted(path)
    assert not path.exists()


def test_a_driver_without_sqlcipher_writes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of the package over plain SQLite would take the key, ignore it and write plain text."""

    class PlainConnection(sqlite3.Connection):
        def set_key(self, key: str) -> None:
            pass

    class PlainDriver:
        DatabaseError = sqlite3.DatabaseError
        Error = sqlite3.Error

        @staticmethod
        def connect(*arguments: Any, **keywords: Any) -> Any:
            return sqlite3.connect(*arguments, **keywords, factory=PlainConnection)

    backend = encrypted(path)
    monkeypatch.setattr("sitq.backends.sqlite_encryption.load_driver", lambda: PlainDriver)
    with pytest.raises(sitq.NotAvailableError, match="without"):
        backend.initialize()
    assert not path.exists() or path.read_bytes() == b""


# Another key.


@pytest.mark.parametrize("door", ["rekey", "arekey"])
@pytest.mark.parametrize("new_key", [OTHER_KEY, None], ids=["encrypt", "decrypt"])
@pytest.mark.parametrize("old_key", [KEY, None], ids=["encrypted", "plain"])
def test_rekey(path: Path, old_key: str | None, new_key: str | None, door: str) -> None:
    task_id = fill(SQLiteBackend(path, encryption_key=old_key))
    path.chmod(0o640)
    with SQLiteBackend(path, encryption_key=old_key) as backend:
        assert asyncio.run(backend.aget_task(task_id)) is not None
        asyncio.run(backend.arekey(new_key)) if door == "arekey" else backend.rekey(new_key)
        assert backend.get_task(task_id) is not None  # the same backend, with new connections
        second = asyncio.run(sitq.TaskQueue(backend).enqueue(print))
    assert is_readable(path, task_id, new_key)
    assert (b"nobody's business" in path.read_bytes()) == (new_key is None)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in path.parent.iterdir()] == ["tasks.db"]
    with SQLiteBackend(path, encryption_key=new_key) as backend:
        assert backend.list_all_tasks() == [task_id, second]
        assert backend.check().ok
    if old_key and new_key:
        with pytest.raises(sitq.WrongKeyError):
            encrypted(path, old_key).initialize()


def test_rekey_wants_the_database_for_itself(path: Path, filled: str) -> None:
    with encrypted(path, connection_timeout=0.1) as backend, encrypted(path) as other:
        other.get_task(filled)
        with pytest.raises(sitq.DatabaseLockedError, match="close every other"):
            backend.rekey(OTHER_KEY)
        assert other.get_task(filled) is not None
        assert backend.get_task(filled) is not None
    assert is_readable(path, filled, KEY)


def test_who_waited_for_the_lock_does_not_write_into_the_old_file(path: Path, filled: str) -> None:
    """In a rollback mode others may have the file open, idle, while it gets another key."""
    with encrypted(path, journal_mode="DELETE") as backend, encrypted(path, journal_mode="DELETE") as other:
        queue = SyncTaskQueue(other)
        queue.enqueue(print, "before")
        backend.rekey(OTHER_KEY)
        with pytest.raises(sitq.DatabaseReplacedError):
            queue.enqueue(print, "after")
        assert len(backend.list_all_tasks()) == 2


def test_who_waits_for_the_lock_meanwhile_does_not_write_into_the_old_file_either(
    path: Path, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write has found the file in its place, and waits for the lock that the change of the key holds."""
    waiting = threading.Event()
    begin, look_over = sqlite_dialect.begin_immediate, sqlite_rekeying.look_over

    def begin_and_tell(driver: Any, options: Any) -> None:
        waiting.set()
        begin(driver, options)

    with (
        ThreadPoolExecutor(1) as pool,
        encrypted(path, journal_mode="DELETE") as backend,
        encrypted(path, journal_mode="DELETE") as other,
    ):
        queue = SyncTaskQueue(other)
        queue.enqueue(print, "before")
        writes = []

        def look_over_and_let_write(options: Any) -> None:
            look_over(options)
            monkeypatch.setattr(sqlite_dialect, "begin_immediate", begin_and_tell)
            writes.append(pool.submit(queue.enqueue, print, "meanwhile"))
            assert waiting.wait(30)

        monkeypatch.setattr(sqlite_rekeying, "look_over", look_over_and_let_write)
        backend.rekey(OTHER_KEY)
        with pytest.raises(sitq.DatabaseReplacedError):
            writes[0].result(30)
        assert len(backend.list_all_tasks()) == 2


KILLED_REKEY = """
import os, pathlib, signal, sys, sitq
from sitq.backends import sqlite_rekeying
step, path, old, new = sys.argv[1:]
backend = sitq.SQLiteBackend(path, encryption_key=old or None)
owner = pathlib.Path if step == "replace" else sqlite_rekeying
original = getattr(owner, step)
def killed(*arguments):
    original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, step, killed)
backend.rekey(new or None)
"""
CHANGES = {"encrypt": ("", KEY), "change": (KEY, OTHER_KEY), "decrypt": (KEY, "")}


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("change", "step"),
    [
        ("encrypt", "export"),
        ("encrypt", "replace"),
        ("change", "leave_log"),
        ("change", "export"),
        ("change", "flush"),
        ("change", "replace"),
        ("decrypt", "look_over"),
        ("decrypt", "replace"),
    ],
)
def test_a_killed_rekey_leaves_one_of_the_two_states(path: Path, change: str, step: str) -> None:
    old, new = CHANGES[change]
    task_id = fill(SQLiteBackend(path, encryption_key=old or None))
    command = [sys.executable, "-c", KILLED_REKEY, step, str(path), old, new]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    assert is_readable(path, task_id, (new if step == "replace" else old) or None)


def test_a_killed_rekey_can_be_done_again(path: Path, filled: str) -> None:
    command = [sys.executable, "-c", KILLED_REKEY, "export", str(path), KEY, OTHER_KEY]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    with encrypted(path) as backend:
        backend.rekey(OTHER_KEY)
    assert is_readable(path, filled, OTHER_KEY)


def test_rekey_checks_its_key(path: Path, filled: str) -> None:
    with encrypted(path) as backend:
        for wrong in ("", b"bytes", 5):
            with pytest.raises(sitq.ConfigurationError, match="new_key"):
                backend.rekey(wrong)  # type: ignore[arg-type]  # the point of the test
        assert backend.get_task(filled) is not None
    with SQLiteBackend(":memory:") as memory, pytest.raises(sitq.ConfigurationError, match=":memory:"):
        memory.rekey(KEY)
    with encrypted(path, readonly=True) as reader, pytest.raises(sitq.ReadOnlyError):
        reader.rekey(OTHER_KEY)


# The key is shown nowhere.


def shown_by(error: BaseException) -> str:
    """All that a traceback with variables can show, but for the frames of the test itself, which has the key."""
    shown = ["".join(traceback.format_exception_only(error))]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename != __file__:
            shown += [f"{frame.f_code.co_name} {name}={as_text(value)}" for name, value in frame.f_locals.items()]
    for cause in (error.__cause__, error.__context__):
        shown += [shown_by(cause)] if cause is not None else []
    return "\n".join(shown)


def as_text(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # of an object that is only half made
        return repr(error)


def is_shown(key: str, text: str) -> bool:
    return key in text or key.encode().hex() in text


@pytest.fixture
def revealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """All that was revealed to be used: the passphrases, and the keys that were derived from them."""
    seen: set[str] = set()
    reveal = Secret.reveal

    def remember(secret: Secret) -> bytes:
        seen.add(reveal(secret).hex())
        return reveal(secret)

    monkeypatch.setattr(Secret, "reveal", remember)
    yield seen
    logging.getLogger("sitq").setLevel(logging.NOTSET)


def test_no_log_shows_the_key_or_what_is_derived_from_it(
    path: Path, caplog: pytest.LogCaptureFixture, revealed: set[str]
) -> None:
    with caplog.at_level(logging.DEBUG), encrypted(path, debug=True, log_queries=True) as backend:
        asyncio.run(sitq.TaskQueue(backend).enqueue(print))
        asyncio.run(backend.aget_task("x"))
        asyncio.run(backend.arekey(OTHER_KEY))
        asyncio.run(backend.aget_task("x"))
        shown = (
            f"{backend!r} {vars(backend)} {vars(backend._database.dialect)} {backend.engine!r} {backend.engine.url!r}"
        )
    shown += caplog.text + repr([vars(record) for record in caplog.records])
    assert "aiosqlite" in shown
    assert len(revealed) >= 4
    for secret in (KEY, OTHER_KEY, *revealed):
        assert not is_shown(secret, shown)


def test_no_error_shows_the_key(path: Path, filled: str, revealed: set[str]) -> None:
    def backend(**options: Any) -> SQLiteBackend:
        return encrypted(path, OTHER_KEY, **options)

    attempts: list[Callable[[], Any]] = [
        lambda: backend(cache_size="large"),
        lambda: backend(temp_store="FILE"),
        lambda: SQLiteBackend(path, encryption_key=OTHER_KEY, cipher="ROT-13"),
        lambda: SQLiteBackend(":memory:", encryption_key=OTHER_KEY),
        lambda: backend().initialize(),
        lambda: asyncio.run(backend().aget_task("x")),
        lambda: backend().health_check() and backend().check(),
        lambda: SQLiteBackend(path).rekey(OTHER_KEY),
        lambda: asyncio.run(SQLiteBackend(path).arekey(OTHER_KEY)),
        lambda: SQLiteBackend(":memory:").rekey(OTHER_KEY),
        lambda: SQLiteBackend(path, encryption_key=KEY, readonly=True).rekey(OTHER_KEY),
        lambda: SQLiteBackend(path, encryption_key=KEY, admin_users=[]).rekey(OTHER_KEY),
    ]
    for attempt in attempts:
        with pytest.raises(sitq.SitqError) as caught:
            attempt()
        text = shown_by(caught.value)
        for secret in (KEY, OTHER_KEY, *revealed):
            assert not is_shown(secret, text), text
    assert len(revealed) >= 3
