"""The command ``sitq``, as real processes on real files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

import sitq
from sitq.claims import ClaimRequest, Outcome
from sitq.cli import age, hide_passwords, main
from sitq.schema import HEAD

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to other processes")
SQ = [sys.executable, "-m", "sitq"]
APP = """
import os, time
from pathlib import Path

def note(text):
    return f"{text} noted by {os.getpid()}"

def note_and_wait(folder):
    (Path(folder) / f"{os.getpid()}.started").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    return os.getpid()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app's module in it."""
    (tmp_path / "app_of_the_test.py").write_text(APP)
    return tmp_path


@pytest.fixture
def queue(folder: Path) -> Iterator[sitq.SyncTaskQueue]:
    with sitq.SQLiteBackend(folder / "tasks.db") as backend:
        yield sitq.SyncTaskQueue(backend)


def command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SQ, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def worker(*arguments: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*SQ, "worker", *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.02)


@pytest.fixture
def app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(folder)
    import app_of_the_test

    yield app_of_the_test
    del sys.modules["app_of_the_test"]


def row_of(table: str, queue: str) -> list[str]:
    [row] = [line.split() for line in table.splitlines() if line.split()[: len(queue.split())] == queue.split()]
    return row[len(queue.split()) :]


def test_upgrade_makes_the_tables_and_says_the_revision(tmp_path: Path) -> None:
    done = command("upgrade", "new.db", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert HEAD in done.stdout
    with sitq.SQLiteBackend(tmp_path / "new.db", readonly=True, auto_upgrade=False) as backend:
        assert backend.list_all_tasks() == []


def test_status_counts_by_queue_and_names_the_paused(folder: Path, queue: sitq.SyncTaskQueue) -> None:
    queue.enqueue_many(print, [(number,) for number in range(3)])
    queue.options(queue="[red]mail", delay=3600).enqueue(print)
    queue.backend.update_task_status(queue.enqueue(print), "failed")
    queue.pause("[red]mail")
    queue.pause("empty")
    done = command("status", "tasks.db", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert row_of(done.stdout, "default")[:7] == ["3", "0", "0", "0", "0", "1", "0"]
    assert row_of(done.stdout, "[red]mail (paused)") == ["1", "1", "0", "0", "0", "0", "0", "-"]
    assert row_of(done.stdout, "empty (paused)") == ["0"] * 7 + ["-"]
    assert row_of(done.stdout, "all queues")[:7] == ["4", "1", "0", "0", "0", "1", "0"]


def test_status_takes_a_url_and_changes_nothing(folder: Path, queue: sitq.SyncTaskQueue) -> None:
    done = command("status", f"sqlite:///{folder / 'tasks.db'}")
    assert done.returncode == 0
    missing = command("status", folder / "missing.db")
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr
    assert not (folder / "missing.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "text.db"), 1, "is not an SQLite database"),
        (("worker", "text.db"), 1, "is not an SQLite database"),
        (("worker", "text.db", "--processes", "2"), 1, "is not an SQLite database"),
        (("upgrade", "text.db"), 1, "is not an SQLite database"),
        (("worker", "new.db", "--concurrency", "0"), 1, "concurrency=0"),
        (("worker", "new.db", "--lease", "0", "--processes", "2"), 1, "lease=0"),
        (("worker", "new.db", "--queue", ""), 1, "queues=''"),
        (("worker", "new.db", "--processes", "0"), 2, "--processes"),
        (("worker", "new.db", "--app-dir", "nowhere"), 2, "--app-dir"),
        (("worker", ":memory:"), 1, ":memory:"),
        (("status", "postgresql://me:s3cret@127.0.0.1:1/db"), 1, "postgresql"),
        (("status", "sqlite:///text.db?mode=ro"), 1, "no query"),
        (("status", "new.db", "postgresql://me:s3@cret@host/db"), 2, "postgresql://me:***@host/db"),
        (("postgresql://me:s3cret@host/db",), 2, "postgresql://me:***@host/db"),
        (("status",), 2, "DATABASE"),
        ((), 2, "command"),
    ],
)
def test_what_cannot_be_is_one_line_and_no_traceback(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "text.db").write_text("this is a text, and long enough not to be taken for an empty file\n" * 50)
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "cret" not in done.stderr + done.stdout


def test_the_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(SQ, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sitq: the command line needs typer, which is not installed: pip install '.[cli]' in a checkout"
    ]


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["sitq", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    warnings.showwarning(sitq.SitqWarning("the schema is newer"), sitq.SitqWarning, "file.py", 1)
    assert capsys.readouterr().err == "sitq: warning: the schema is newer\n"


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_imports_from_the_app_dir_and_stops_when_asked(
    folder: Path, queue: sitq.SyncTaskQueue, app: object, tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    ids = [queue.options(queue=name).enqueue(app.note, name) for name in ("a", "b", "default")]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    arguments = (folder / "tasks.db", "--queue", "a", "--queue", "b", "--app-dir", folder, "--poll-interval", "0.05")
    with worker(*arguments, cwd=elsewhere) as process:
        values = [queue.result(task_id, timeout=60) for task_id in ids[:2]]
        process.send_signal(number)
        assert process.wait(60) == 0
        assert "worker stopped" in process.stderr.read()
    assert values == [f"a noted by {process.pid}", f"b noted by {process.pid}"]
    assert queue.get_task(ids[2]).status == "queued"


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_several_processes_work_and_a_signal_lets_what_runs_end(
    folder: Path, queue: sitq.SyncTaskQueue, app: object, number: int
) -> None:
    ids = queue.enqueue_many(app.note_and_wait, [(str(folder),)] * 2)
    with worker("tasks.db", "--processes", "2", "--concurrency", "1", cwd=folder) as process:
        wait_until(lambda: len(list(folder.glob("*.started"))) == 2)
        process.send_signal(number)
        (folder / "go").touch()
        assert process.wait(60) == 0
        said = process.stderr.read()
    pids = {queue.result(task_id, timeout=0) for task_id in ids}
    assert len(pids) == 2
    assert all(f"worker process {pid} started" in said and f"worker process {pid} stopped" in said for pid in pids)


@POSIX
def test_a_process_that_dies_is_reported_and_the_others_go_on(
    folder: Path, queue: sitq.SyncTaskQueue, app: object
) -> None:
    ids = queue.enqueue_many(app.note_and_wait, [(str(folder),)] * 2)
    arguments = ("tasks.db", "--processes", "2", "--concurrency", "1", "--lease", "0.5", "--poll-interval", "0.05")
    with worker(*arguments, cwd=folder) as process:
        wait_until(lambda: len(list(folder.glob("*.started"))) == 2)
        victim, survivor = (int(file.stem) for file in folder.glob("*.started"))
        os.kill(victim, signal.SIGKILL)
        (folder / "go").touch()
        assert [queue.result(task_id, timeout=60) for task_id in ids] == [survivor] * 2
        process.terminate()
        assert process.wait(60) == 1
        said = process.stderr.read()
    assert f"worker process {victim} was killed by SIGKILL" in said
    assert "1 of 2 processes left" in said
    assert f"worker process {survivor} stopped" in said


@POSIX
def test_processes_whose_parent_is_killed_stop(folder: Path, queue: sitq.SyncTaskQueue, app: object) -> None:
    queue.enqueue_many(app.note_and_wait, [(str(folder),)] * 2)
    with worker("tasks.db", "--processes", "2", "--concurrency", "1", cwd=folder) as process:
        wait_until(lambda: len(list(folder.glob("*.started"))) == 2)
        process.kill()
        (folder / "go").touch()
        process.wait(60)
        # Ends when the last process that writes to the pipe has ended.
        assert process.stderr.read().count("worker stopped") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://me:a:b/c@d@host:1/db is bad", "mysql://me:***@host:1/db is bad"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("sqlite:////srv/tasks.db", "sqlite:////srv/tasks.db"),
    ],
)
def test_passwords_are_left_out(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown


def test_an_age_is_given_in_its_largest_unit(queue: sitq.SyncTaskQueue) -> None:
    now = queue.backend.now()
    spans = {59: "59 s", 60: "1 min", 7199: "1 h", 86_400 * 3: "3 d", -5: "0 s"}
    assert {seconds: age(now - timedelta(seconds=seconds), now) for seconds in spans} == spans
    assert age(None, now) == "-"


def fail_twice(queue: sitq.SyncTaskQueue) -> list[str]:
    """Two tasks that failed, as a worker writes it."""
    ids = queue.options(queue="mail").enqueue_many(print, [(1,), (2,)])
    for claim in queue.backend.claim(ClaimRequest("worker", ("mail",), 2, 30.0)):
        message = "it went wrong\nin many\nlines"
        queue.backend.finish(
            [Outcome(token=claim.token, status=sitq.TaskStatus.FAILED, at=queue.backend.now(), error_message=message)]
        )
    return ids


def test_failed_tasks_are_listed_and_put_back(queue: sitq.SyncTaskQueue, folder: Path) -> None:
    ids = fail_twice(queue)
    listed = command("failed", "tasks.db", cwd=folder)
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ids] == ids[::-1]
    assert "builtins.print" in listed.stdout
    assert "it went wrong" in listed.stdout
    assert "in many" not in listed.stdout
    assert ids[0] not in command("failed", "tasks.db", "--limit", "1", cwd=folder).stdout
    assert ids[0] not in command("failed", "tasks.db", "--queue", "other", cwd=folder).stdout

    one = command("retry", "tasks.db", ids[0], "unknown", cwd=folder)
    assert (one.returncode, one.stdout) == (1, f"{ids[0]} queued\nunknown unknown\n")
    rest = command("retry", "tasks.db", "--all-failed", cwd=folder)
    assert (rest.returncode, rest.stdout) == (0, f"{ids[1]} queued\n")
    assert {task.status for task in queue.list()} == {"queued"}
    nothing = command("retry", "tasks.db", cwd=folder)
    assert (nothing.returncode, nothing.stderr) == (1, "sitq: nothing to put back: give ids, or --all-failed\n")


def test_tasks_are_cancelled(queue: sitq.SyncTaskQueue, folder: Path) -> None:
    waiting, ended = queue.enqueue(print), fail_twice(queue)[0]
    done = command("cancel", "tasks.db", waiting, "--reason", "not needed", cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"{waiting} cancelled\n")
    result = queue.get_result(waiting, timeout=0)
    assert result is not None
    assert result.error_message == "not needed"
    late = command("cancel", "tasks.db", ended, cwd=folder)
    assert (late.returncode, late.stdout) == (1, f"{ended} ended\n")


SHOP = """
import sitq
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

class Base(DeclarativeBase):
    pass

engine = create_engine("sqlite:///shop.db")
backend = sitq.SQLAlchemyBackend(engine, models=sitq.declare_models(Base))
Base.metadata.create_all(engine)

def make():
    return backend
"""


def test_a_backend_of_an_app_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_of_the_test.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import shop_of_the_test

    with closing(shop_of_the_test.backend) as backend:
        queue = sitq.SyncTaskQueue(backend)
        task_id = queue.enqueue(max, 1, 2)
        with worker("shop_of_the_test:backend", cwd=tmp_path):
            assert queue.result(task_id, timeout=60) == 2
        shown = command("status", "shop_of_the_test:make", cwd=tmp_path)
    assert row_of(shown.stdout, "default")[4] == "1"
    shop_of_the_test.engine.dispose()
    del sys.modules["shop_of_the_test"]


@pytest.mark.parametrize("name", ["no_module_of_the_test:backend", "json:nothing", "json:encoder", "builtins:dict"])
def test_what_is_no_backend_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["sitq", "status", name])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert name in capsys.readouterr().err
