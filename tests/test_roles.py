"""Users of the server get what their list says, and no more, whatever program they come with."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

import sitq
from databases import empty_database, execute_alone
from sitq import (
    BackendError,
    ConfigurationError,
    DatabasePermissionError,
    MariaDBBackend,
    PostgreSQLBackend,
    TaskQueue,
    Worker,
)
from sitq.testing.records import completed, new_row, request

BACKENDS = {"postgresql": PostgreSQLBackend, "mariadb": MariaDBBackend}
PASSWORD = "of-a-test"
LISTS = ("read_only_users", "write_users", "admin_users")


class House:
    """A database with a user of each role, whose names are unusual."""

    def __init__(self, kind: str, url: URL) -> None:
        self.kind = kind
        self.url = url
        made = uuid.uuid4().hex[:6]
        self.reader, self.writer, self.admin = (f'"Ann`s%20:{role}"-{made}' for role in ("r", "w", "a"))

    def backend(self, **lists: list[str]) -> Any:
        return BACKENDS[self.kind](self.url, **lists)

    @property
    def lists(self) -> dict[str, list[str]]:
        return dict(zip(LISTS, ([self.reader], [self.writer], [self.admin]), strict=True))

    def as_user(self, name: str) -> Any:
        return BACKENDS[self.kind](self.url.set(username=name, password=PASSWORD))

    def refuses(self, name: str, statement: str) -> bool:
        engine = create_engine(self.url.set(username=name, password=PASSWORD), poolclass=NullPool)
        try:
            with engine.begin() as connection:
                connection.execute(text(statement))
        except DBAPIError as error:
            said = str(error.orig)
            assert "denied" in said or "must be owner" in said, said
            return True
        return False

    def named(self, name: str) -> str:
        if self.kind == "postgresql":
            return '"' + name.replace('"', '""') + '"'
        return "`" + name.replace("`", "``") + "`@`%`"

    def make_users(self) -> None:
        for name in (self.reader, self.writer, self.admin):
            quoted = self.named(name).replace("%", "%%")
            if self.kind == "postgresql":
                execute_alone(self.url, f"CREATE ROLE {quoted} LOGIN PASSWORD '{PASSWORD}'")
            else:
                execute_alone(self.url, f"CREATE USER {quoted} IDENTIFIED BY '{PASSWORD}'")

    def drop_users(self) -> None:
        for name in (self.reader, self.writer, self.admin):
            quoted = self.named(name).replace("%", "%%")
            if self.kind == "postgresql":
                execute_alone(self.url, f"DROP OWNED BY {quoted}")
                execute_alone(self.url, f"DROP ROLE {quoted}")
            else:
                execute_alone(self.url, f"DROP USER {quoted}")


@contextmanager
def open_house(kind: str) -> Iterator[House]:
    with empty_database(kind, Path()) as url:
        house = House(kind, url)
        house.make_users()
        try:
            yield house
        finally:
            house.drop_users()


@pytest.fixture(scope="module", params=BACKENDS)
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with open_house(request.param) as made:
        with made.backend(**made.lists) as backend:
            backend.enqueue([new_row()])
            backend.apply_grants()
            backend.apply_grants()
        yield made


def double(number: int) -> int:
    return number * 2


def test_a_writer_can_lead_a_full_worker_s_life(house: House) -> None:
    async def live() -> None:
        async with house.as_user(house.writer) as backend:
            queue = TaskQueue(backend=backend)
            done = await queue.enqueue(double, 21)
            failing = await queue.options(unique_key="once").enqueue(double, None)
            waiting = await queue.options(delay=3600, queue="later").enqueue(double, 1)
            async with Worker(backend, poll_interval=0.05):
                assert await queue.result(done, timeout=20) == 42
                with pytest.raises(sitq.TaskFailedError):
                    await queue.result(failing, timeout=20)
            await queue.cancel(waiting)
            await queue.retry(failing)

    asyncio.run(live())
    with house.as_user(house.writer) as backend:
        claims = backend.claim(request())
        backend.extend([claim.token for claim in claims], 30.0)
        assert all(backend.finish([completed(claim) for claim in claims]))
        backend.reap()
        assert backend.purge(older_than=0) > 0


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE tasks",
        "DROP TABLE results",
        "ALTER TABLE tasks ADD COLUMN more INTEGER",
        "TRUNCATE TABLE results",
        "CREATE TABLE another (id INTEGER)",
        "INSERT INTO sitq_queues (name) VALUES ('emails')",
        "UPDATE sitq_alembic_version SET version_num = '0000'",
        "DELETE FROM sitq_alembic_version",
    ],
)
def test_a_writer_may_not_touch_the_schema(house: House, statement: str) -> None:
    assert house.refuses(house.writer, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tasks SET priority = 1",
        "DELETE FROM results",
        "INSERT INTO tasks (id, function) VALUES ('1', '')",
        "DROP TABLE tasks",
    ],
)
def test_a_reader_may_not_change_anything(house: House, statement: str) -> None:
    assert house.refuses(house.reader, statement)


def test_a_reader_may_look_and_copy_and_gets_sitq_s_own_error_for_more(house: House, tmp_path: Path) -> None:
    with house.as_user(house.reader) as backend:
        assert backend.get_stats().total_tasks == len(backend.list_all_tasks())
        assert backend.paused_queues() == []
        backend.backup(tmp_path / "saved.db")
        with pytest.raises(DatabasePermissionError):
            backend.enqueue([new_row()])


def test_an_admin_may_pause_queues_and_restore(house: House, tmp_path: Path) -> None:
    with house.as_user(house.writer) as backend, pytest.raises(DatabasePermissionError):
        backend.pause_queue("emails")
    with house.as_user(house.admin) as backend:
        backend.pause_queue("emails")
        backend.backup(tmp_path / "saved.db")
        backend.restore(tmp_path / "saved.db")
        backend.resume_queue("emails")


def test_who_moves_to_another_list_has_what_that_one_gives(house: House) -> None:
    with house.backend(read_only_users=[house.writer]) as backend:
        backend.apply_grants()
    assert house.refuses(house.writer, "UPDATE tasks SET priority = 1")
    with house.backend(**house.lists) as backend:
        backend.apply_grants()
    assert not house.refuses(house.writer, "UPDATE tasks SET priority = 1")


def test_the_statements_can_be_printed_and_run_by_hand(house: House) -> None:
    with house.backend(**house.lists) as backend:
        statements = backend.grants()
    assert statements.endswith(";\n")
    assert all(line.startswith(("GRANT ", "REVOKE ")) for line in statements.splitlines())
    for line in statements.splitlines():
        execute_alone(house.url, line.removesuffix(";").replace("%", "%%"))


def test_of_two_lists_the_higher_counts(house: House) -> None:
    with house.backend(read_only_users=[house.admin, house.reader], admin_users=[house.admin]) as backend:
        statements = backend.grants().splitlines()
    quoted = house.named(house.admin).removesuffix("`%`")
    assert not [line for line in statements if "GRANT SELECT ON" in line and "tasks" in line and quoted in line]


def test_without_users_there_is_nothing_to_grant(house: House) -> None:
    with house.backend() as backend, pytest.raises(ConfigurationError, match="read_only_users"):
        backend.grants()
    with pytest.raises(ConfigurationError, match="write_users='ann'"):
        house.backend(write_users="ann")  # type: ignore[arg-type]


def test_a_user_who_does_not_exist_is_an_error(house: House) -> None:
    with house.backend(write_users=["nobody-of-this-name"]) as backend, pytest.raises(BackendError):
        backend.apply_grants()


def test_mariadb_users_may_name_their_host(tmp_path: Path) -> None:
    with (
        empty_database("mariadb", tmp_path) as url,
        MariaDBBackend(url, write_users=["app@10.0.%", "web"]) as backend,
        backend.engine.connect() as connection,
    ):
        dialect = backend._database.dialect
        statements = dialect.grants(connection, backend._lists, backend.models)  # type: ignore[attr-defined]
    assert any(statement.endswith("TO `app`@`10.0.%`") for statement in statements)
    assert any(statement.endswith("TO `web`@`%`") for statement in statements)
