"""Workers of two releases on one database, one revision of the schema apart; real processes of both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import URL, MetaData, text

import releases
import sitq
from databases import KINDS, empty_database, engine_to_migrate
from freezing import freeze, thaw
from releases import LATER
from sitq import schema
from sitq.comparison import differences
from sitq.models import Base
from test_worker_crashes import until

LONG = 60.0  # seconds
THIS_RELEASE = Path(sitq.__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to other processes")

WORKER = """
import os, sys, warnings
import freezing, sitq, sitq.schema

warnings.simplefilter("ignore", sitq.SitqWarning)
url, queue, upgrades = sys.argv[1:]
with sitq.open_backend(url, auto_upgrade=upgrades == "True") as backend:
    backend.initialize()
    freezing.freeze_on_signal(backend)
    sitq.SyncTaskQueue(backend).options(queue="greetings").enqueue(os.getpid)
    print(sitq.schema.HEAD, flush=True)
    sitq.Worker(backend, queues=[queue, "both", "greetings"]).run()
"""


@contextmanager
def worker(release: Path, url: URL, queue: str, *, upgrades: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A worker of a release, which enqueues a task, tells the revision that it knows, and works."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, url.render_as_string(hide_password=False), queue, str(upgrades)],
        env={**os.environ, "PYTHONPATH": str(release)},
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def revision_told_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def recorded_revision(backend: sitq.SQLAlchemyBackend) -> str:
    with backend.engine.connect() as connection:
        return str(connection.execute(text(f"SELECT version_num FROM {schema.VERSION_TABLE}")).scalar_one())


class Site:
    """A database that this release has made, an enqueuer of this release, and a folder for tasks that wait."""

    def __init__(self, url: URL, folder: Path) -> None:
        backend = sitq.open_backend(url)
        assert isinstance(backend, sitq.SQLAlchemyBackend)
        self.backend = backend
        self.queue = sitq.SyncTaskQueue(backend)
        self.folder = folder
        backend.initialize()

    def hold(self, name: str) -> str:
        """Enqueue a task that waits until the gate of ``name`` is open."""
        (self.folder / name).mkdir()
        return self.queue.options(queue="both").enqueue(releases.hold, str(self.folder / name))

    def begun(self, name: str, process: subprocess.Popen[str]) -> None:
        """Wait until a process runs it."""
        until((self.folder / name / str(process.pid)).exists, LONG)

    def open_gate(self, name: str) -> None:
        (self.folder / name / "gate").touch()

    def takes_over(self, heir: subprocess.Popen[str], *, dying: subprocess.Popen[str]) -> None:
        """Kill a process in the middle of a task, and wait until another has run it."""
        name = f"of-{dying.pid}"
        freeze(heir)  # so that the first to run it is the other
        task_id = self.hold(name)
        self.begun(name, dying)
        dying.kill()
        dying.wait()
        thaw(heir)
        self.open_gate(name)
        assert self.queue.result(task_id, timeout=LONG) == heir.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()

    def runs(self, process: subprocess.Popen[str], queue: str) -> None:
        """Wait until a process has run a task of its queue."""
        assert self.queue.result(self.queue.options(queue=queue).enqueue(os.getpid), timeout=LONG) == process.pid


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with empty_database(request.param, tmp_path) as made:
        yield made


def test_every_revision_only_adds_so_that_workers_of_the_release_before_can_go_on(url: URL) -> None:
    engine = engine_to_migrate(url)
    with engine.begin() as connection:
        schema.upgrade(
            connection, "0002"
        )  # which takes over tables that were made by hand: nothing was released before
    for revision in schema.REVISIONS[2:]:
        before = MetaData()
        with engine.begin() as connection:
            before.reflect(connection, only=lambda name, _: name in Base.metadata.tables)
            schema.upgrade(connection, revision)
            assert list(differences(connection, before.tables.values())) == [], revision


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next release, which adds columns."""
    return releases.next_release(tmp_path_factory.mktemp("later"), with_columns=True)


def test_old_workers_go_on_while_new_ones_upgrade_the_schema(url: URL, later: Path, tmp_path: Path) -> None:
    with Site(url, tmp_path) as site, worker(THIS_RELEASE, url, "old") as old:
        assert revision_told_by(old) == schema.HEAD
        held = site.hold("before")
        site.begun("before", old)
        with worker(later, url, "new") as new:
            assert revision_told_by(new) == recorded_revision(site.backend) == LATER
            site.open_gate("before")
            assert site.queue.result(held, timeout=LONG) == old.pid
            site.runs(old, "old")
            site.runs(new, "new")
            site.takes_over(new, dying=old)
            with worker(THIS_RELEASE, url, "old") as another:
                assert revision_told_by(another) == schema.HEAD
                site.takes_over(another, dying=new)
                site.runs(another, "old")
        until(lambda: site.backend.get_stats().completed_tasks == 9, LONG)


def test_a_new_worker_goes_on_with_a_schema_that_lacks_only_its_index(tmp_path: Path) -> None:
    with_index = releases.next_release(tmp_path / "later", with_columns=False)
    with (
        empty_database("sqlite", tmp_path) as url,
        Site(url, tmp_path) as site,
        worker(THIS_RELEASE, url, "old") as old,
        worker(with_index, url, "new", upgrades=False) as new,
    ):
        assert (revision_told_by(old), revision_told_by(new)) == (schema.HEAD, LATER)
        site.runs(old, "old")
        site.runs(new, "new")
        site.takes_over(new, dying=old)
        assert recorded_revision(site.backend) == schema.HEAD


def test_a_new_worker_that_needs_columns_leaves_the_old_schema_and_its_tasks_alone(later: Path, tmp_path: Path) -> None:
    with empty_database("sqlite", tmp_path) as url, Site(url, tmp_path) as site:
        task_id = site.queue.options(queue="new").enqueue(os.getpid)
        with worker(later, url, "new", upgrades=False) as new:
            _, errors = new.communicate(timeout=LONG)
        assert new.returncode == 1
        assert f"SchemaOutdatedError: {url.database} has the schema of revision {schema.HEAD}" in errors
        assert recorded_revision(site.backend) == schema.HEAD
        assert site.queue.get_task(task_id).claim_count == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == "postgresql"])
def test_an_upgrade_waits_for_a_transaction_that_is_about_to_write(kind: str, tmp_path: Path) -> None:
    """As a purge is: it has locked its rows, and deletes them next."""
    with empty_database(kind, tmp_path) as url, sitq.open_backend(url) as backend:
        task_id = sitq.SyncTaskQueue(backend).enqueue(len, "four")
        migrating = engine_to_migrate(url)
        with migrating.begin() as connection:
            schema.downgrade(connection, schema.REVISIONS[-2])
        with ThreadPoolExecutor(1) as other, backend.engine.begin() as writing:
            writing.execute(text("SELECT id FROM tasks WHERE id = :id FOR UPDATE"), {"id": task_id})
            upgraded = other.submit(upgrade, url)
            until(lambda: is_waited_for(backend, "tasks"))
            writing.execute(text("DELETE FROM tasks WHERE id = :id"), {"id": task_id})
            writing.commit()
            assert upgraded.result(LONG) == schema.HEAD
        migrating.dispose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("revision", ["0004", "0005", "0006"])
def test_a_schema_that_lacks_only_indexes_is_counted_too(kind: str, revision: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        upgrade(url)
        migrating = engine_to_migrate(url)
        with migrating.begin() as connection:
            schema.downgrade(connection, revision)
        migrating.dispose()
        backend = sitq.open_backend(url, auto_upgrade=False)
        with pytest.warns(sitq.SitqWarning, match=revision):
            backend.initialize()
        with backend:
            queue = sitq.SyncTaskQueue(backend)
            queue.options(delay=3600).enqueue(len, "four")
            queue.cancel(queue.enqueue_many(len, [("four",), ("five",)])[:1])
            stats = backend.get_stats()
    assert (stats.total_tasks, stats.pending_tasks, stats.scheduled_tasks, stats.cancelled_tasks) == (3, 2, 1, 1)


def upgrade(url: URL) -> str:
    with sitq.open_backend(url) as backend:
        backend.initialize()
        return recorded_revision(backend)


def is_waited_for(backend: sitq.SQLAlchemyBackend, table: str) -> bool:
    """Whether somebody waits for a lock on a table."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass(:name)")
    with backend.engine.connect() as connection:
        return bool(connection.scalar(waiting, {"name": table}))
