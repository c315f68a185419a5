"""A dead worker is noticed at once on its machine, and a slow one is not taken for dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sitq import presence
from sitq.presence import Presence, file_presence

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="leases tell there")

SHOW = """
import sys, time
from pathlib import Path
from sitq.presence import file_presence

shown = file_presence(sys.argv[1], Path(sys.argv[2]))
shown.show()
if sys.argv[3] == "fork":
    import os
    if os.fork() == 0:
        time.sleep(600)
print("shown", flush=True)
time.sleep(600)
"""


@contextmanager
def shown(worker_id: str, folder: Path, how: str = "alone") -> Iterator[subprocess.Popen[str]]:
    """Another process in which a worker shows itself."""
    arguments = [sys.executable, "-c", SHOW, worker_id, str(folder), how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "shown\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workers"


@pytest.fixture
def reaper(folder: Path) -> Iterator[Presence]:
    made = file_presence("reaper", folder)
    made.show()
    yield made
    made.leave()


def dead(reaper: Presence) -> list[str]:
    with reaper.dead_workers() as found:
        return found


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_a_killed_worker_is_noticed_once_and_its_file_removed(folder: Path, reaper: Presence) -> None:
    with shown("other", folder) as process:
        assert dead(reaper) == []
        process.kill()
        process.wait()
        assert dead(reaper) == ["other"]
    assert dead(reaper) == []
    assert names(folder) == ["reaper"]


def test_a_stopped_worker_is_not_taken_for_dead(folder: Path, reaper: Presence) -> None:
    with shown("other", folder) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert dead(reaper) == []
        assert names(folder) == ["other", "reaper"]


def test_a_child_that_outlives_the_worker_does_not_keep_it_alive(folder: Path, reaper: Presence) -> None:
    with shown("other", folder, "fork") as process:
        process.kill()
        process.wait()
        wait_for(lambda: dead(reaper) == ["other"])


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_only_one_reaper_gets_a_dead_worker(folder: Path, reaper: Presence) -> None:
    second = file_presence("second", folder)
    with shown("other", folder):
        pass
    with reaper.dead_workers() as found:
        assert found == ["other"]
        assert dead(second) == []


def test_a_dead_worker_is_kept_until_its_tasks_are_put_back(folder: Path, reaper: Presence) -> None:
    with shown("other", folder):
        pass
    with pytest.raises(ConnectionError), reaper.dead_workers():
        raise ConnectionError
    assert dead(reaper) == ["other"]


def test_workers_of_another_machine_are_left_to_their_leases(
    folder: Path, reaper: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "this_machine", lambda: "another")
    elsewhere = file_presence("other", folder)
    elsewhere.show()
    elsewhere.close()  # type: ignore[attr-defined]  # as if its process had ended
    assert dead(reaper) == []
    assert dead(file_presence("neighbour", folder)) == ["other"]


def test_several_workers_of_one_process_are_told_apart(folder: Path, reaper: Presence) -> None:
    second = file_presence("second", folder)
    second.show()
    assert dead(reaper) == dead(second) == []
    second.leave()
    assert names(folder) == ["reaper"]


def test_the_last_worker_removes_the_folder(folder: Path) -> None:
    made = file_presence("only", folder)
    made.show()
    made.leave()
    assert not folder.exists()


def test_a_file_that_somebody_removed_is_made_again(folder: Path, reaper: Presence) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert dead(reaper) == []
    reaper.show()
    assert names(folder) == ["reaper"]
    assert dead(file_presence("other", folder)) == []


def test_a_folder_that_cannot_be_made_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = file_presence("worker", tmp_path / "file" / "workers")
    nowhere.show()
    assert dead(nowhere) == []
    nowhere.leave()


def test_a_private_folder_that_others_may_write_to_is_not_trusted(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    private = file_presence("worker", folder, private=True)
    private.show()
    assert names(folder) == []
    with shown("other", folder):
        pass
    assert dead(private) == []


def test_what_a_worker_left_that_died_while_it_began_is_removed(folder: Path, reaper: Presence) -> None:
    old, young = folder / "old.new", folder / "young.new"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    assert dead(reaper) == []
    assert names(folder) == ["reaper", "young"]
