"""The schema from Python: made, adopted, upgraded, refused."""

from __future__ import annotations

import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, create_engine, text

import sitq
from databases import KINDS, empty_database, engine_to_migrate
from sitq import schema
from sitq.documented import SQLITE_RESULTS, SQLITE_TASKS
from sitq.exceptions import (
    ForeignTableError,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    SitqWarning,
)

LATER = f"{int(schema.HEAD) + 1:04}"
"""A revision that this version does not know."""

DOCUMENTED = f"""
{SQLITE_TASKS};
{SQLITE_RESULTS};
INSERT INTO tasks (id, function, args, priority) VALUES ('a', x'00', x'01', 7), ('b', x'02', NULL, NULL);
INSERT INTO results (task_id, value) VALUES ('a', x'03');
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sitq.db"


@contextmanager
def writing(path: Path) -> Iterator[Connection]:
    with engine_to_migrate(URL.create("sqlite", database=str(path))).begin() as connection:
        yield connection


def ensure(path: Path, *, auto_upgrade: bool = True) -> None:
    with writing(path) as connection:
        schema.ensure(connection, auto_upgrade=auto_upgrade, target="tasks.db")


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def dump(path: Path) -> list[Any]:
    return query(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")


def columns(path: Path, table: str) -> dict[str, Any]:
    return {row[1]: row for row in query(path, f"PRAGMA table_info({table})")}


# Making and upgrading.


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_database_gets_its_tables_and_a_second_look_changes_nothing(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        engine = engine_to_migrate(url)
        with engine.begin() as connection:
            assert schema.read_state(connection).is_empty
            schema.ensure(connection, auto_upgrade=False, target="it")
        with engine.begin() as connection:
            assert schema.read_state(connection) == schema.SchemaState(
                schema.HEAD, frozenset({"tasks", "results", "sitq_queues", schema.VERSION_TABLE})
            )
            schema.ensure(connection, auto_upgrade=False, target="it")
            schema.check(connection, target="it")


@pytest.mark.parametrize("kind", KINDS)
def test_documented_tables_are_adopted_on_every_database(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url, engine_to_migrate(url).begin() as connection:
        schema.upgrade(connection, "0001")
        connection.execute(text("INSERT INTO tasks (id, function) VALUES ('a', 'x')"))
        connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))
        connection.execute(text("DROP TABLE results"))
        schema.ensure(connection, auto_upgrade=True, target="it")
        assert schema.read_state(connection).is_current
        assert connection.execute(text("SELECT id, queue FROM tasks")).all() == [("a", "default")]


@pytest.mark.parametrize("revision", schema.REVISIONS[:-1])
def test_every_older_revision_is_upgraded_with_its_rows(path: Path, revision: str) -> None:
    with writing(path) as connection:
        schema.upgrade(connection, revision)
    execute(path, "INSERT INTO tasks (id, function) VALUES ('a', x'00'); INSERT INTO results (task_id) VALUES ('a')")
    ensure(path)
    assert query(path, "SELECT id, queue, claim_count, errors FROM tasks") == [("a", "default", 0, None)]
    assert query(path, "SELECT task_id, traceback FROM results") == [("a", None)]


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_without_auto_upgrade_the_error_names_both_revisions_and_the_command(path: Path, revision: str) -> None:
    with writing(path) as connection:
        schema.upgrade(connection, revision)
    before = dump(path)
    with pytest.raises(SchemaOutdatedError, match=rf"{revision}.*{schema.HEAD}.*sitq upgrade tasks\.db"):
        ensure(path, auto_upgrade=False)
    assert dump(path) == before


def test_without_auto_upgrade_a_schema_that_lacks_only_indexes_is_served_with_one_warning(path: Path) -> None:
    older = schema.REVISIONS[-2]
    ensure(path)
    execute(path, f"DROP INDEX ix_tasks_history; UPDATE {schema.VERSION_TABLE} SET version_num = '{older}'")
    before = dump(path)
    with pytest.warns(SitqWarning, match=rf"{older}.*{schema.HEAD}.*sitq upgrade tasks\.db") as caught:
        ensure(path, auto_upgrade=False)
    assert len(caught) == 1
    assert dump(path) == before
    backend = sitq.SQLiteBackend(path, auto_upgrade=False)
    with pytest.warns(SitqWarning):
        backend.initialize()
    with backend, pytest.raises(SchemaOutdatedError, match=older):
        backend.check_schema()


def test_tables_made_by_hand_are_outdated_without_auto_upgrade(path: Path) -> None:
    execute(path, DOCUMENTED)
    with pytest.raises(SchemaOutdatedError, match="0001, made by hand"):
        ensure(path, auto_upgrade=False)


@pytest.mark.parametrize("script", [DOCUMENTED, SQLITE_TASKS, SQLITE_RESULTS])
def test_tables_made_by_hand_are_adopted_with_their_rows(path: Path, script: str) -> None:
    execute(path, script)
    ensure(path)
    fresh = path.with_name("fresh.db")
    ensure(fresh)
    assert {name: columns(path, name) for name in ("tasks", "results")} == {
        name: columns(fresh, name) for name in ("tasks", "results")
    }
    if script is DOCUMENTED:
        assert query(path, "SELECT id, function, args, priority FROM tasks ORDER BY id") == [
            ("a", b"\x00", b"\x01", 7),
            ("b", b"\x02", None, None),
        ]
        assert query(path, "SELECT task_id, value FROM results") == [("a", b"\x03")]


def test_what_somebody_added_outlives_adoption_and_the_way_back(path: Path) -> None:
    execute(
        path,
        DOCUMENTED
        + """
        ALTER TABLE tasks ADD COLUMN customer TEXT;
        ALTER TABLE tasks ADD COLUMN weight REAL NOT NULL DEFAULT 1.5;
        UPDATE tasks SET customer = 'Ada' WHERE id = 'a';
        CREATE TABLE seen (id TEXT);
        CREATE INDEX by_customer ON tasks (lower(customer), priority DESC) WHERE customer IS NOT NULL;
        CREATE TRIGGER watch AFTER UPDATE ON tasks BEGIN INSERT INTO seen VALUES (new.id || ':' || '100%'); END;
        CREATE VIEW waiting AS SELECT id FROM tasks;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, task_id TEXT REFERENCES tasks(id) ON DELETE CASCADE);
        INSERT INTO orders (task_id) VALUES ('a');
        """,
    )
    added = "SELECT sql FROM sqlite_master WHERE name IN ('by_customer', 'watch', 'waiting', 'orders') ORDER BY name"
    before = query(path, added)
    ensure(path)
    assert query(path, added) == before
    with writing(path) as connection:
        schema.downgrade(connection, "0001")
    assert query(path, added) == before
    assert query(path, "SELECT id, customer, weight FROM tasks ORDER BY id") == [("a", "Ada", 1.5), ("b", None, 1.5)]
    assert query(path, "SELECT task_id FROM orders") == [("a",)]
    execute(path, "UPDATE tasks SET priority = 1 WHERE id = 'a'")
    assert query(path, "SELECT id FROM seen") == [("a:100%",)]


def test_checks_and_keys_without_names_outlive_adoption(path: Path) -> None:
    tasks = SQLITE_TASKS.replace("priority INTEGER DEFAULT 0", "priority INTEGER DEFAULT 0 CHECK (priority < 100)")
    execute(path, f"{tasks}; {SQLITE_RESULTS.replace('tasks(id)', 'tasks(id) ON DELETE CASCADE')};")
    ensure(path)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        execute(path, "INSERT INTO tasks (id, function, priority) VALUES ('x', x'00', 100)")
    execute(
        path,
        "PRAGMA foreign_keys=ON; INSERT INTO tasks (id, function) VALUES ('a', x'00');"
        "INSERT INTO results (task_id) VALUES ('a'); DELETE FROM tasks;",
    )
    assert query(path, "SELECT * FROM results") == []


def test_rows_without_an_id_are_kept_under_one_of_their_own(path: Path) -> None:
    execute(path, DOCUMENTED + "INSERT INTO tasks (function) VALUES (x'0A'), (x'0B');")
    ensure(path)
    ids = [row[0] for row in query(path, "SELECT id FROM tasks WHERE function IN (x'0A', x'0B')")]
    assert len(set(ids)) == 2
    assert None not in ids


def test_rows_without_a_status_wait_for_a_worker(path: Path) -> None:
    execute(path, DOCUMENTED + "INSERT INTO tasks (id, function, status) VALUES ('c', x'0A', NULL);")
    ensure(path)
    assert query(path, "SELECT DISTINCT status FROM tasks") == [("queued",)]


# What belongs to someone else.


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("CREATE TABLE tasks (id INTEGER PRIMARY KEY, title TEXT)", "no column 'function'|'id' has the type INTEGER"),
        ("CREATE TABLE TASKS (id INTEGER PRIMARY KEY, title TEXT)", "no column 'function'|'id' has the type INTEGER"),
        (SQLITE_TASKS.replace("id TEXT PRIMARY KEY", "id INTEGER PRIMARY KEY"), "'id' has the type INTEGER"),
        (SQLITE_TASKS.replace("id TEXT PRIMARY KEY", "id TEXT"), "primary key is not 'id'"),
        (SQLITE_TASKS.replace("error_message", "owner TEXT NOT NULL, error_message"), "'owner' is neither nullable"),
        (SQLITE_TASKS.replace(" kwargs BLOB,", ""), "no column 'kwargs'"),
        (f"{SQLITE_TASKS}; CREATE TABLE results (id INTEGER)", "'results' .* no column 'task_id'"),
        ("CREATE VIEW results AS SELECT 1 AS task_id", "it is a view"),
        ("CREATE TABLE sitq_queues (id INTEGER)", "'sitq_queues'"),
    ],
)
@pytest.mark.parametrize("auto_upgrade", [True, False])
def test_a_table_that_merely_bears_the_name_is_not_touched(
    path: Path, script: str, reason: str, auto_upgrade: bool
) -> None:
    execute(path, script)
    before = dump(path)
    with pytest.raises(ForeignTableError, match=f"(?s)({reason}).*database of its own.*declare_models"):
        ensure(path, auto_upgrade=auto_upgrade)
    assert dump(path) == before


# What a later version has made.


def later(path: Path, script: str, revision: str = LATER) -> None:
    ensure(path)
    execute(path, f"UPDATE {schema.VERSION_TABLE} SET version_num = '{revision}'; {script}")


@pytest.mark.parametrize(
    "script",
    [
        "",
        "ALTER TABLE tasks ADD COLUMN colour TEXT; ALTER TABLE results ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE sitq_workers (id TEXT PRIMARY KEY)",
        "CREATE INDEX ix_tasks_colour ON tasks (lower(name)); DROP INDEX ix_tasks_due",
        "ALTER TABLE tasks ADD COLUMN parent_id TEXT REFERENCES tasks(id)",
        "ALTER TABLE tasks ADD COLUMN shout TEXT AS (upper(name)) VIRTUAL",
    ],
)
def test_a_newer_schema_with_mere_additions_is_served_with_one_warning(path: Path, script: str) -> None:
    later(path, script)
    before = dump(path)
    with pytest.warns(SitqWarning, match=rf"{LATER}.*{schema.HEAD}") as caught:
        ensure(path)
    assert len(caught) == 1
    with writing(path) as connection, pytest.warns(SitqWarning):
        schema.check(connection, target="it")
    assert dump(path) == before


QUEUES = "DROP TABLE sitq_queues; CREATE TABLE sitq_queues (paused_at TIMESTAMP, {})"
LOST_ERROR_TYPE = "ALTER TABLE results DROP COLUMN error_type"
REBUILT = "CREATE TABLE new AS SELECT * FROM {0}; DROP TABLE {0}; ALTER TABLE new RENAME TO {0};"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            (
                "DROP INDEX ix_tasks_claim; DROP INDEX ix_tasks_history; DROP INDEX ix_tasks_timed; "
                "ALTER TABLE tasks DROP COLUMN queue"
            ),
            "tasks.queue is missing",
        ),
        ("ALTER TABLE tasks RENAME COLUMN name TO title", "tasks.name is missing"),
        ("DROP TABLE sitq_queues", "table sitq_queues is missing"),
        ("CREATE UNIQUE INDEX one_name ON tasks (name)", r"tasks \(name\) has become unique"),
        ("DROP INDEX uq_tasks_unique_key", r"tasks \(unique_key\) is no longer unique"),
        ("ALTER TABLE tasks ADD COLUMN colour TEXT CHECK (colour <> 'red')", "tasks has a new check"),
        ("ALTER TABLE results DROP COLUMN traceback; ALTER TABLE results ADD COLUMN traceback BLOB", "type BLOB"),
        (QUEUES.format("name TEXT PRIMARY KEY NOT NULL, reason TEXT NOT NULL"), "sitq_queues.reason must be given"),
        (LOST_ERROR_TYPE, "results.error_type is missing"),
        (REBUILT.format("results"), "results"),
        (QUEUES.format("name TEXT NOT NULL"), "primary key of sitq_queues"),
        (QUEUES.format("name TEXT PRIMARY KEY"), "sitq_queues.name is nullable"),
        (
            f"{LOST_ERROR_TYPE}; ALTER TABLE results ADD COLUMN error_type TEXT REFERENCES errors(id)",
            r"results \(error_type\) has a new foreign key to errors",
        ),
    ],
)
def test_a_newer_schema_that_changed_otherwise_is_refused(path: Path, script: str, reason: str) -> None:
    later(path, script)
    before = dump(path)
    with pytest.raises(SchemaTooNewError, match=rf"{LATER}.*{schema.HEAD}.*({reason})"):
        ensure(path)
    assert dump(path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_schema_is_served_on_every_database(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url, engine_to_migrate(url).begin() as connection:
        schema.upgrade(connection)
        connection.execute(text("ALTER TABLE tasks ADD COLUMN colour INTEGER NOT NULL DEFAULT 0"))
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '{LATER}'"))
        with pytest.warns(SitqWarning):
            schema.ensure(connection, auto_upgrade=True, target="it")
        connection.execute(text("ALTER TABLE tasks DROP COLUMN errors"))
        with pytest.raises(SchemaTooNewError, match=r"tasks\.errors is missing"):
            schema.ensure(connection, auto_upgrade=True, target="it")


def test_a_newer_schema_is_neither_upgraded_nor_downgraded(path: Path) -> None:
    later(path, "")
    with pytest.raises(SchemaTooNewError), writing(path) as connection:
        schema.upgrade(connection)
    with pytest.raises(SchemaTooNewError), writing(path) as connection:
        schema.downgrade(connection, "0001")


# What makes no sense.


@pytest.mark.parametrize(
    "script",
    [
        f"INSERT INTO {schema.VERSION_TABLE} VALUES ('0001')",
        f"UPDATE {schema.VERSION_TABLE} SET version_num = 'e3b0c44298fc'",
        f"UPDATE {schema.VERSION_TABLE} SET version_num = '0000'",
        f"UPDATE {schema.VERSION_TABLE} SET version_num = ''",
        "DROP TABLE tasks",
        "DROP TABLE sitq_queues",
    ],
)
def test_a_record_that_makes_no_sense_is_a_clear_error(path: Path, script: str) -> None:
    ensure(path)
    execute(path, script)
    before = dump(path)
    with pytest.raises(SchemaError, match=schema.VERSION_TABLE):
        ensure(path)
    assert dump(path) == before


def test_an_unknown_revision_is_a_clear_error(path: Path) -> None:
    ensure(path)
    with pytest.raises(SchemaError, match="nonsense"), writing(path) as connection:
        schema.downgrade(connection, "nonsense")


def test_a_database_that_may_only_be_read_is_not_made(path: Path) -> None:
    with writing(path) as connection, pytest.raises(SchemaError, match=r"sitq upgrade tasks\.db"):
        schema.check(connection, target="tasks.db")
    assert dump(path) == []
    execute(path, DOCUMENTED)
    with writing(path) as connection, pytest.raises(SchemaOutdatedError, match="made by hand"):
        schema.check(connection, target="tasks.db")


# Whole or not at all.


def test_a_migration_that_fails_leaves_the_old_schema(path: Path) -> None:
    execute(path, DOCUMENTED + "CREATE INDEX ix_tasks_lease ON results (value);")
    before, rows = dump(path), query(path, "SELECT * FROM tasks")
    with pytest.raises(Exception, match="ix_tasks_lease already exists"):
        ensure(path)
    assert dump(path) == before
    assert query(path, "SELECT * FROM tasks") == rows
    execute(path, "DROP INDEX ix_tasks_lease")
    ensure(path)


KILLED = """
import os, signal, sys
from databases import engine_to_migrate
from sqlalchemy import URL, event
from sitq import schema

engine = engine_to_migrate(URL.create("sqlite", database=sys.argv[1]))

@event.listens_for(engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

with engine.begin() as connection:
    schema.ensure(connection, auto_upgrade=True, target="it")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["DROP TABLE tasks", "DROP TABLE results", f"'{schema.HEAD}'"])
def test_a_kill_in_the_middle_leaves_the_old_schema(path: Path, moment: str) -> None:
    execute(path, DOCUMENTED)
    before = dump(path)
    command = [sys.executable, "-c", KILLED, str(path), moment]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert dump(path) == before
    assert query(path, "SELECT count(*) FROM tasks") == [(2,)]
    ensure(path)
    assert query(path, "SELECT count(*) FROM tasks") == [(2,)]


def test_a_connection_that_enforces_foreign_keys_is_refused(path: Path) -> None:
    execute(path, DOCUMENTED)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        with pytest.raises(SchemaError, match="PRAGMA foreign_keys=OFF"):
            schema.upgrade(connection, "0002")
    engine.dispose()


def test_several_threads_make_several_databases_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(4)]
    shared = tmp_path / "shared.db"
    errors: list[BaseException] = []

    def make(path: Path) -> None:
        try:
            ensure(path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(path,)) for path in (*paths, shared, shared, shared)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}")[0][0] for path in (*paths, shared)} == {
        schema.HEAD
    }


# Manners.


def test_alembic_is_imported_only_when_something_is_altered(path: Path) -> None:
    ensure(path)
    script = (
        "import sys\n"
        "from sqlalchemy import create_engine\n"
        "from sitq import schema\n"
        f"with create_engine('sqlite:///{path}').connect() as connection:\n"
        "    schema.ensure(connection, auto_upgrade=True, target='it')\n"
        "    schema.check(connection, target='it')\n"
        "assert 'alembic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_is_printed_and_logging_is_left_alone(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, alembic = logging.getLogger(), logging.getLogger("alembic")
    before = [(logger.level, logger.disabled, list(logger.handlers)) for logger in (root, alembic)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensure(path)
    assert before == [(logger.level, logger.disabled, list(logger.handlers)) for logger in (root, alembic)]
    assert capfd.readouterr() == ("", "")


def test_looking_costs_two_queries(path: Path) -> None:
    ensure(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        statements: list[str] = []
        connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
        assert schema.read_state(connection).is_current
    engine.dispose()
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 2


def test_an_installed_package_needs_no_checkout(path: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site" / "sitq"
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(schema.__file__).parent, installed, ignore=without_caches)
    shutil.copytree(schema.script_location(), installed / "migrations", ignore=without_caches, dirs_exist_ok=True)
    script = (
        f"import sys; sys.path.insert(0, {str(installed.parent)!r})\n"
        "from databases import engine_to_migrate\n"
        "from sqlalchemy import make_url\n"
        "from sitq import schema\n"
        f"with engine_to_migrate(make_url('sqlite:///{path}')).begin() as connection:\n"
        "    schema.ensure(connection, auto_upgrade=True, target='it')\n"
        "print(schema.script_location())\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(installed / "migrations")
    assert query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.HEAD,)]


def test_missing_scripts_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "src" / "sitq" / "schema.py"))
    with pytest.raises(SchemaError, match="install sitq again"):
        schema.script_location()
