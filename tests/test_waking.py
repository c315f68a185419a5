"""SQLite: processes that have a file open wake each other, by sockets in a folder beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

import sitq
import working
from sitq import endings, rest
from sitq.claims import ClaimRequest, Outcome
from sitq.ids import new_id
from sitq.wakeups import RESULTS, ThreadSubscription, queue_topic
from working import LONG, until

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="waiters poll there")

DEFAULT = queue_topic("default")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def speaker(path: Path) -> Iterator[sitq.SQLiteBackend]:
    with sitq.SQLiteBackend(path) as backend:
        yield backend


def row(**columns: Any) -> dict[str, Any]:
    more = {"name": "f", "queue": "default", "priority": 0, "max_retries": 0, "created_at": datetime.now(UTC)}
    return {"id": new_id(), "function": b"f", **more, **columns}


def sockets(path: Path) -> list[Path]:
    try:
        return list(Path(f"{path}-listeners").glob("*.socket"))
    except FileNotFoundError:  # the folder went away while it was read
        return []


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.005)


@contextmanager
def hearing(backend: sitq.BaseBackend, *topics: str) -> Iterator[list[ThreadSubscription]]:
    """Subscribe to each topic, and wait until news of other processes comes in."""
    with ExitStack() as subscribed, backend.wakeups.subscribe(("start",)) as start:
        assert start.wait(LONG), "it looks again once it listens"
        assert backend.wakeups.hears
        yield [subscribed.enter_context(backend.wakeups.subscribe((topic,))) for topic in topics]


# Between backends.


def test_each_hears_of_its_own_topics(path: Path, speaker: sitq.SQLiteBackend) -> None:
    with sitq.SQLiteBackend(path) as backend, hearing(backend, DEFAULT, RESULTS) as (tasks, ends):
        speaker.enqueue([row()])
        assert tasks.wait(LONG)
        speaker.enqueue([row(due_at=datetime.now(UTC) + timedelta(hours=1))])
        assert tasks.wait(LONG), "it sets its alarm for it"
        assert not ends.wait(0)
        [claim] = speaker.claim(ClaimRequest("w", ["default"], 1, 60.0))
        speaker.finish([Outcome(token=claim.token, status=sitq.TaskStatus.COMPLETED, at=datetime.now(UTC))])
        assert ends.wait(LONG)
        assert not tasks.wait(0)


def test_a_process_does_not_hear_its_own_news_again(
    path: Path, speaker: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes: list[str] = []
    with sitq.SQLiteBackend(path) as backend, hearing(backend, DEFAULT, queue_topic("other")) as (tasks, other):
        monkeypatch.setattr(tasks, "wake", lambda: wakes.append("once"))
        backend.enqueue([row()])
        speaker.enqueue([row(queue="other")])
        assert other.wait(LONG), "news comes in its order, so what was sent before has been heard"
        assert wakes == ["once"]


def test_nothing_is_missed_where_more_is_told_than_a_socket_holds(
    path: Path, speaker: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.backends.sqlite_listening.REST", 0.3)
    queues = [f"queue {number}" for number in range(100)]
    with sitq.SQLiteBackend(path) as backend, hearing(backend, *map(queue_topic, queues)) as subscriptions:
        for queue in queues:
            speaker.enqueue([row(queue=queue)])
        assert all(subscription.wait(LONG) for subscription in subscriptions)


def test_one_who_does_not_take_his_news_keeps_nobody_else_from_it(
    path: Path, speaker: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sitq.SQLiteBackend(path) as backend, hearing(backend, DEFAULT) as (tasks,):
        [heard] = sockets(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
            monkeypatch.chdir(heard.parent)  # since the whole path may be longer than a socket's address
            stuck.bind(f"stuck{heard.name[heard.name.index('.') :]}")
            for _ in range(50):
                speaker.enqueue([row()])
                assert tasks.wait(LONG)


def test_more_topics_than_a_datagram_names_wake_all(path: Path, speaker: sitq.SQLiteBackend) -> None:
    with sitq.SQLiteBackend(path) as backend, hearing(backend, queue_topic("499")) as (subscription,):
        speaker.enqueue([row(queue=f"{number:04}" * 10) for number in range(499)] + [row(queue="499")])
        assert subscription.wait(LONG)


def test_an_engine_that_an_app_lends_tells_and_hears(path: Path, speaker: sitq.SQLiteBackend) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with sitq.SQLAlchemyBackend(engine) as lent, hearing(lent, DEFAULT) as (tasks,):
        speaker.enqueue([row()])
        assert tasks.wait(LONG)
        with hearing(speaker, DEFAULT) as (others,):
            lent.enqueue([row()])
            assert others.wait(LONG)
    engine.dispose()


def test_a_path_that_is_too_long_for_a_socket_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a folder with a long name"] * 5)
    folder.mkdir(parents=True)
    path = folder / "tasks.db"
    with (
        sitq.SQLiteBackend(path) as speaker,
        sitq.SQLiteBackend(path) as backend,
        hearing(backend, DEFAULT) as (tasks,),
    ):
        speaker.enqueue([row()])
        assert tasks.wait(LONG)


def test_a_link_to_the_file_leads_to_the_same_sockets(path: Path, speaker: sitq.SQLiteBackend, tmp_path: Path) -> None:
    speaker.initialize()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    with sitq.SQLiteBackend(link) as backend, hearing(backend, DEFAULT) as (tasks,):
        speaker.enqueue([row()])
        assert tasks.wait(LONG)


def test_what_a_worker_claims_begins_before_it_asks_for_the_next_due_time(
    path: Path, speaker: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    working.reset()

    def note(verb: str, step: str) -> None:
        call = getattr(sitq.SQLiteBackend, verb)

        async def noting(backend: sitq.SQLiteBackend, *arguments: Any) -> Any:
            answer = await call(backend, *arguments)
            if step == "asked" or answer[1]:
                working.ran.append(step)
            return answer

        monkeypatch.setattr(sitq.SQLiteBackend, verb, noting)

    async def scenario() -> None:
        async with sitq.SQLiteBackend(path) as backend, sitq.Worker(backend):
            await until(lambda: "asked" in working.ran)
            for number in range(5):
                sitq.SyncTaskQueue(speaker).enqueue(working.note, number)
                await until(lambda number=number: number in working.ran)
                assert working.ran[working.ran.index(number) - 1] == "claimed"

    monkeypatch.setattr(rest, "BREATH", 1.0)
    note("afinish_and_claim", "claimed")
    note("anext_due_at", "asked")
    asyncio.run(scenario())


# What is left behind, and what is in the way.


def test_a_closed_backend_leaves_nothing_behind(path: Path) -> None:
    with sitq.SQLiteBackend(path) as backend, hearing(backend, DEFAULT):
        assert len(sockets(path)) == 1
    assert [each.name for each in path.parent.iterdir()] == ["tasks.db"]


def test_nobody_listens_while_nobody_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.listening.LINGER", 0.0)
    monkeypatch.setattr("sitq.listening.PATIENCE", 0.05)
    with sitq.SQLiteBackend(path) as backend:
        backend.enqueue([row()])
        for _ in range(2):
            assert sockets(path) == []
            with hearing(backend, DEFAULT):
                assert len(sockets(path)) == 1
            wait_until(lambda: not sockets(path))


def test_a_socket_that_was_taken_away_is_hung_up_anew(
    path: Path, speaker: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.listening.PATIENCE", 0.05)
    with sitq.SQLiteBackend(path) as backend, hearing(backend, DEFAULT) as (tasks,):
        [old] = sockets(path)
        old.unlink()
        wait_until(lambda: sockets(path) not in ([], [old]))
        assert tasks.wait(LONG), "it looks for what it may have missed"
        speaker.enqueue([row()])
        assert tasks.wait(LONG)


def test_where_no_socket_can_be_work_goes_on(path: Path, speaker: sitq.SQLiteBackend) -> None:
    Path(f"{path}-listeners").touch()

    async def scenario() -> None:
        async with sitq.SQLiteBackend(path) as backend, sitq.Worker(backend):
            task_id = await asyncio.to_thread(sitq.SyncTaskQueue(speaker).enqueue, len, "four")
            assert await sitq.TaskQueue(backend).result(task_id, timeout=LONG) == 4
            assert not backend.wakeups.hears

    asyncio.run(scenario())


def test_a_reader_and_a_memory_database_hang_up_nothing(path: Path, speaker: sitq.SQLiteBackend) -> None:
    speaker.initialize()
    for backend in (sitq.SQLiteBackend(path, readonly=True), sitq.SQLiteBackend(":memory:")):
        with backend, backend.wakeups.subscribe([RESULTS]):
            backend.get_statuses(["none"])
            assert not Path(f"{path}-listeners").exists()


# Between processes.

WORKER = """
import sys
import sitq

backend = sitq.SQLiteBackend(sys.argv[1])
sitq.Worker(backend, poll_interval=3600).run()
"""

LISTEN = """
import os, sys, time
import sitq

backend = sitq.SQLiteBackend(sys.argv[1])
backend.initialize()
news = backend.wakeups.subscribe(["queue:default"])
while not backend.wakeups.hears:
    time.sleep(0.005)
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
print("listening", flush=True)
if sys.argv[2] != "end":
    time.sleep(600)
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_task_and_its_result_wake_those_who_never_poll(
    path: Path, speaker: sitq.SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "POLL", 3600.0)
    queue = sitq.SyncTaskQueue(speaker)
    with process(WORKER, path) as worker:
        wait_until(lambda: sockets(path))
        for number in range(10):
            task_id = queue.enqueue(len, "a" * number)
            assert queue.result(task_id, timeout=LONG) == number
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(LONG) == 0
    speaker.close()
    assert [each.name for each in path.parent.iterdir()] == ["tasks.db"]


def test_the_socket_of_a_process_that_was_killed_is_removed(path: Path, speaker: sitq.SQLiteBackend) -> None:
    with process(LISTEN, path, "until killed") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "listening\n"
        killed.kill()
        killed.wait()
        assert len(sockets(path)) == 1
        speaker.enqueue([row()])
        assert sockets(path) == []


def test_a_process_that_ends_without_closing_leaves_no_socket(path: Path) -> None:
    with process(LISTEN, path, "end") as ended:
        assert ended.wait(LONG) == 0
    assert not Path(f"{path}-listeners").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_sockets_of_its_parent_alone(path: Path, speaker: sitq.SQLiteBackend) -> None:
    with process(LISTEN, path, "fork") as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "listening\n"
        assert len(sockets(path)) == 1
