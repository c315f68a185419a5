"""Who may do what: the rules, every verb of the backend, and SQL that is sent past the verbs."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

import sitq
from sitq import AccessDeniedError, SQLiteBackend, schema
from sitq.access import ADMINISTERS, OPEN, READS, WRITES, Role, check_access, operating_system_user, role_for
from sitq.backends.guarding import DECLARED, action_of, is_verb
from sitq.backends.sql import SQLAlchemyBackend

LISTS: dict[str, Any] = {"read_only_users": ["rita"], "write_users": ["walt"], "admin_users": ["anna"]}
USERS = {"nobody": None, "rita": Role.READER, "walt": Role.WRITER, "anna": Role.ADMIN}
KINDS = ["plain", "encrypted"]


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A database with tables and one task. That of the encrypted kind is named so."""
    path = tmp_path / f"{request.param}.db"
    with acting("anna", path) as backend:
        sitq.SyncTaskQueue(backend).enqueue(math.gcd, 4, 6)
    return path


def acting(user: str, path: Path, **options: Any) -> SQLiteBackend:
    key = {"encryption_key": "a key"} if path.stem == "encrypted" else {}
    return SQLiteBackend(path, user=user, **LISTS, **key, **options)


# The rules.


def test_each_action_stands_on_one_list() -> None:
    lists = [READS, WRITES, ADMINISTERS, OPEN]
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


def test_what_nobody_thought_of_is_for_admins() -> None:
    assert role_for("whatever comes next") is Role.ADMIN


@pytest.mark.parametrize("user", USERS)
def test_a_role_includes_the_lower_ones(user: str) -> None:
    access = check_access(**LISTS, user=user)
    assert access.role == USERS[user]
    for action in DECLARED:
        needed = role_for(action)
        if needed is None or (access.role is not None and access.role >= needed):
            access.require(action)
        else:
            with pytest.raises(AccessDeniedError):
                access.require(action)


def test_on_two_lists_the_higher_role_holds() -> None:
    assert check_access(["both"], ["both"], [], "both").role is Role.WRITER
    assert check_access(["both"], None, ["both"], "both").role is Role.ADMIN


def test_an_empty_list_is_a_list() -> None:
    assert check_access([], None, None, "rita").role is None
    with pytest.raises(AccessDeniedError):
        check_access(None, None, [], "rita").require("get_task")


def test_without_lists_there_is_no_control() -> None:
    for action in DECLARED:
        check_access(None, None, None, None).require(action)


def test_the_user_is_the_operating_systems_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "anna")
    if os.name != "nt":
        assert operating_system_user() != "anna"
    assert check_access(None, None, [operating_system_user()], None).role is Role.ADMIN
    assert check_access(**LISTS, user=None).role is None


def test_a_denial_names_user_action_and_role(tmp_path: Path) -> None:
    with pytest.raises(AccessDeniedError) as caught:
        acting("walt", tmp_path / "plain.db").pause_queue("default")
    assert isinstance(caught.value, PermissionError)
    message = str(caught.value)
    assert "'walt' may not pause queue" in message
    assert "needs the role admin (admin_users)" in message
    assert "has the role writer" in message
    with pytest.raises(AccessDeniedError, match=r"'nobody' may not get task.* on none of the lists"):
        acting("nobody", tmp_path / "plain.db").get_task("x")


# Every verb.


def verbs_of(backend: type) -> dict[str, Any]:
    return {
        name: verb
        for name in dir(backend)
        if is_verb(name) and inspect.isfunction(verb := inspect.getattr_static(backend, name))
    }


@pytest.mark.parametrize("backend", [SQLiteBackend, SQLAlchemyBackend, sitq.PostgreSQLBackend, sitq.MariaDBBackend])
def test_every_public_verb_has_an_action_and_asks_for_it(backend: type) -> None:
    verbs = verbs_of(backend)
    assert len(verbs) > 50
    for name, verb in verbs.items():
        assert getattr(verb, "sitq_action", None) == action_of(name), f"{name} does not ask; is the class @guarded?"
        assert action_of(name) in DECLARED, f"{name} has no role: put it on a list in sitq.access"


def test_every_declared_action_is_a_verb() -> None:
    beneath_verbs = {"create", "upgrade"}
    verbs = {**verbs_of(SQLiteBackend), **verbs_of(sitq.PostgreSQLBackend)}
    assert {action_of(name) for name in verbs} | beneath_verbs == DECLARED


def arguments_of(verb: Any) -> list[Any]:
    parameters = list(inspect.signature(verb).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [None for each in parameters if each.kind in positional and each.default is inspect.Parameter.empty]


@pytest.mark.parametrize("user", ["nobody", "rita", "walt"])
def test_every_verb_is_denied_to_who_may_not(user: str, tmp_path: Path) -> None:
    """The arguments are nonsense: a denial comes before they are looked at, and before a file is made."""
    role = USERS[user]
    denied = 0
    for name, verb in verbs_of(SQLiteBackend).items():
        needed = role_for(action_of(name))
        if needed is None or (role is not None and role >= needed):
            continue
        denied += 1
        keywords = {"older_than": 0} if "older_than" in inspect.signature(verb).parameters else {}
        args = [] if keywords else arguments_of(verb)
        with pytest.raises(AccessDeniedError, match=f"{user}' may not "):
            run(getattr(acting(user, tmp_path / "plain.db"), name), *args, **keywords)
    assert denied > 15
    assert list(tmp_path.iterdir()) == []


def run(verb: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    if inspect.iscoroutinefunction(verb):
        return asyncio.run(verb(*args, **keywords))
    return verb(*args, **keywords)


# What each role can do.


def test_a_reader_looks_through_both_doors(path: Path) -> None:
    with acting("rita", path) as backend:
        (task_id,) = backend.list_all_tasks()
        assert asyncio.run(backend.aget_task(task_id)) is not None
        assert backend.get_stats().pending_tasks == 1
        assert backend.check().ok
        health = backend.health_check()
        assert (health.is_healthy, health.error) == (True, None)


def test_a_writer_runs_tasks(path: Path) -> None:
    async def main() -> None:
        async with acting("walt", path) as backend:
            queue = sitq.TaskQueue(backend)
            task_id = await queue.enqueue(math.gcd, 6, 9)
            async with sitq.Worker(backend):
                assert await queue.result(task_id, timeout=30) == 3
            await backend.aupdate_task_status(task_id, "queued")
            assert (await backend.aget_task(task_id)).status == "queued"  # type: ignore[union-attr]
            assert backend.health_check().is_healthy

    asyncio.run(main())


def test_an_admin_does_everything(path: Path) -> None:
    backup = path.with_name(f"{path.stem}.backup.db")
    with acting("anna", path) as backend:
        backend.pause_queue("default")
        backend.resume_queue("default")
        backend.backup(backup)
        backend.restore(backup)
        assert backend.purge(older_than=0) == 0
        backend.vacuum()
        backend.optimize()
        assert len(backend.list_all_tasks()) == 1


def test_health_tells_of_a_denial(path: Path) -> None:
    health = acting("nobody", path).health_check()
    assert not health.is_healthy
    assert "on none of the lists" in (health.error or "")


@pytest.mark.parametrize("user", ["rita", "walt"])
def test_only_admins_make_a_database(user: str, tmp_path: Path) -> None:
    missing = tmp_path / "folder" / "plain.db"
    for verb in ("initialize", "list_all_tasks"):
        with pytest.raises(AccessDeniedError, match="may not create"):
            getattr(acting(user, missing), verb)()
    with pytest.raises(AccessDeniedError, match="may not create"):
        asyncio.run(SQLiteBackend(":memory:", user=user, **LISTS).aget_task("x"))
    assert list(tmp_path.iterdir()) == []


def test_only_admins_make_tables(tmp_path: Path) -> None:
    path = tmp_path / "plain.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (id)")
    connection.close()
    with pytest.raises(AccessDeniedError, match=r"'walt' may not upgrade.*admin"):
        acting("walt", path).list_all_tasks()
    with pytest.raises(sitq.SchemaError, match="no tables"):
        acting("rita", path).list_all_tasks()
    assert len(acting("anna", path).list_all_tasks()) == 0


def test_only_admins_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "plain.db"
    with acting("anna", path) as backend, backend._database.dialect.lock_schema(backend.engine) as connection:
        schema.downgrade(connection, "0001")
    with pytest.raises(AccessDeniedError, match="'walt' may not upgrade"):
        sitq.SyncTaskQueue(acting("walt", path)).enqueue(print)
    with pytest.raises(sitq.SchemaOutdatedError):
        acting("rita", path).list_all_tasks()
    acting("anna", path).initialize()
    with acting("walt", path) as writer:
        assert writer.list_all_tasks() == []


# SQL that is sent past the verbs.

WRITING = [
    "INSERT INTO tasks (id, function) VALUES ('x', x'00')",
    "UPDATE tasks SET priority = 9",
    "DELETE FROM results",
    "WITH w AS (SELECT 1) UPDATE tasks SET priority = 9",
]
ADMINISTERING = [
    "CREATE TABLE more (id)",
    "CREATE TEMP TABLE more (id)",
    "CREATE INDEX more ON tasks (name)",
    "CREATE VIEW more AS SELECT 1",
    "CREATE TRIGGER more AFTER INSERT ON tasks BEGIN SELECT 1; END",
    "ALTER TABLE tasks ADD COLUMN more",
    "DROP TABLE results",
    "DELETE FROM tasks",
    "INSERT INTO sitq_queues (name) VALUES ('default')",
    "UPDATE sitq_alembic_version SET version_num = '0001'",
    "UPDATE sqlite_master SET sql = ''",
    "ATTACH DATABASE 'other.db' AS other",
    "ANALYZE",
    "REINDEX",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 5",
    "PRAGMA rekey = 'mine'",
    "SELECT load_extension('mine')",
]
ALONE = ["VACUUM", "VACUUM INTO 'copy.db'"]


REFUSED = "not authorized|authorization denied|readonly database|prohibited|may not be modified"


def assert_refused(backend: SQLiteBackend, statements: list[str]) -> None:
    """Past the verbs: in a transaction of SQLAlchemy's, on the driver itself, and through aiosqlite."""
    with backend.engine.connect() as connection:
        for statement in statements:
            with pytest.raises(sqlalchemy.exc.DBAPIError, match=REFUSED):
                connection.exec_driver_sql(statement)
    with backend.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        for statement in [*statements, *ALONE]:
            with pytest.raises(driver.Error if hasattr(driver, "Error") else sqlite3.Error, match=REFUSED):
                driver.execute(statement)
    asyncio.run(assert_refused_in_aiosqlite(backend, statements))


async def assert_refused_in_aiosqlite(backend: SQLiteBackend, statements: list[str]) -> None:
    async with backend.async_engine.connect() as connection:
        for statement in statements:
            with pytest.raises(sqlalchemy.exc.DBAPIError, match=REFUSED):
                await connection.exec_driver_sql(statement)


def test_a_reader_cannot_write_with_sql_of_its_own(path: Path) -> None:
    before = path.read_bytes()
    with acting("rita", path) as backend:
        assert_refused(backend, WRITING + ADMINISTERING)
    assert path.read_bytes() == before


def test_a_writer_cannot_administer_with_sql_of_its_own(path: Path) -> None:
    with acting("walt", path) as backend:
        assert_refused(backend, ADMINISTERING)
    with acting("anna", path) as backend:
        assert len(backend.list_all_tasks()) == 1


def test_a_writer_can_write_with_sql_of_its_own(path: Path) -> None:
    async def write(backend: SQLiteBackend) -> None:
        async with backend.async_engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE tasks SET priority = 9")

    with acting("walt", path) as backend:
        for statement in WRITING:
            with backend.engine.begin() as connection:
                connection.exec_driver_sql(statement)
        asyncio.run(write(backend))


def test_an_admin_can_do_what_the_others_cannot(path: Path) -> None:
    """Else the refusals above might have other reasons."""
    with acting("anna", path) as backend:
        for statement in ("CREATE TABLE more (id)", "UPDATE tasks SET priority = 9", "PRAGMA user_version = 5"):
            with backend.engine.begin() as connection:
                connection.exec_driver_sql(statement)
        assert sqlalchemy.inspect(backend.engine).has_table("more")


def test_who_is_on_no_list_gets_no_connection(path: Path) -> None:
    backend = acting("nobody", path)
    with pytest.raises(AccessDeniedError), backend.engine.connect():
        pass
    with pytest.raises(AccessDeniedError):
        asyncio.run(assert_refused_in_aiosqlite(backend, ["SELECT 1"]))


def test_inspecting_is_looking(path: Path) -> None:
    with acting("rita", path) as backend:
        inspector = sqlalchemy.inspect(backend.engine)
        assert {"tasks", "results"} <= set(inspector.get_table_names())
        assert inspector.get_columns("tasks")
        assert inspector.get_indexes("tasks")
        assert inspector.get_foreign_keys("results")
