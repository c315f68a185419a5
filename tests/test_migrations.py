"""The revisions, on every database, by the command line of Alembic and from Python."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, MetaData, Table, inspect, make_url, select, text
from sqlalchemy.schema import CreateIndex, CreateTable

from databases import KINDS, empty_database, engine_to_migrate
from listeners import listening
from sitq import schema
from sitq.documented import SQLITE_RESULTS, SQLITE_TASKS
from sitq.exceptions import SchemaError
from sitq.models import Base, Task

ROOT = Path(__file__).parents[1]

TASK = "INSERT INTO tasks (id, function) VALUES ('a', 'pickle')"
RESULT = "INSERT INTO results (task_id, value) VALUES ('a', 'bytes')"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def engine(url: URL) -> Engine:
    return engine_to_migrate(url)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sitq.db"


def sqlite(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def alembic(command_name: str, *arguments: Any, url: URL | None, ini: Path | None = None, **options: Any) -> str:
    """Run a command of Alembic as its command line does, and return what it printed."""
    given = [f"url={url.render_as_string(hide_password=False)}"] if url else []
    output = io.StringIO()
    config = Config(ini, stdout=output, output_buffer=output, cmd_opts=Namespace(x=given))
    if ini is None:
        config.set_main_option("script_location", str(schema.script_location()))
    getattr(command, command_name)(config, *arguments, **options)
    return output.getvalue()


def described(connection: Connection) -> dict[str, Any]:
    """What the database says of sitq's tables, as the DDL that would make them, and their indexes."""
    metadata = MetaData()
    metadata.reflect(connection, only=list(Base.metadata.tables))
    tables = {name: ddl(table, connection) for name, table in metadata.tables.items()}
    return {**tables, "indexes": written_indexes(connection)}


def ddl(table: Table, connection: Connection) -> tuple[str, list[str]]:
    indexes = sorted(str(CreateIndex(index).compile(dialect=connection.dialect)) for index in table.indexes)
    return str(CreateTable(table).compile(dialect=connection.dialect)), indexes


def written_indexes(connection: Connection) -> list[Any]:
    """The indexes in the database's own words: reflection leaves out which columns descend."""
    statements = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE tablename IN ('tasks', 'results', 'sitq_queues')",
        "mariadb": "SELECT index_name, seq_in_index, column_name, collation, non_unique "
        "FROM information_schema.statistics WHERE table_schema = database() AND table_name = 'tasks'",
    }
    return sorted(tuple(row) for row in connection.execute(text(statements[connection.dialect.name])))


def sqlite_master(path: Path) -> dict[str, str]:
    """The SQL of every object but the version table."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> ?"
        return dict(connection.execute(query, (schema.VERSION_TABLE,)).fetchall())


def rows(connection: Connection, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]


def test_the_known_revisions_are_the_scripts() -> None:
    config = Config(attributes={})
    config.set_main_option("script_location", str(schema.script_location()))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == schema.REVISIONS
    assert scripts.get_current_head() == schema.HEAD


def test_models_and_migrations_agree(engine: Engine) -> None:
    options = {"compare_type": True, "compare_server_default": True, "version_table": schema.VERSION_TABLE}
    with engine.begin() as connection:
        schema.upgrade(connection)
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_migrated_tables_equal_created_ones(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.upgrade(connection)
        migrated = described(connection)
        schema.downgrade(connection, "base")
        assert inspect(connection).get_table_names() == [schema.VERSION_TABLE]
        schema.create(connection)
        assert migrated == described(connection)


def test_created_tables_go_down_and_up_as_migrated_ones_do(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.create(connection)
        assert schema.read_state(connection).is_current
        connection.execute(text(TASK))
        schema.downgrade(connection, "0001")
        schema.upgrade(connection)
        assert len(rows(connection, "tasks")) == 1
    alembic("check", url=engine.url)


def test_rows_survive_every_step_down_and_up(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.upgrade(connection)
        connection.execute(text(TASK))
        connection.execute(text(RESULT))
        made = rows(connection, "tasks") + rows(connection, "results")
        for revision in reversed(schema.REVISIONS[:-1]):
            schema.downgrade(connection, revision)
            assert schema.read_state(connection).revision == revision
            kept = rows(connection, "tasks") + rows(connection, "results")
            assert kept == [{key: row[key] for key in after} for row, after in zip(made, kept, strict=True)]
        for revision in schema.REVISIONS[1:]:
            schema.upgrade(connection, revision)
        assert rows(connection, "tasks") + rows(connection, "results") == made


def test_the_newest_revision_can_be_repeated_wherever_it_was_interrupted(engine: Engine) -> None:
    """MariaDB commits every change of a table at once."""
    with engine.begin() as connection:
        schema.create(connection)
        wanted = described(connection)
    sent: list[str] = []

    def interrupt(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)
            if len(sent) == at:
                raise InterruptedError

    at, is_through = 0, False
    while not is_through:
        with engine.begin() as connection:
            schema.downgrade(connection, schema.REVISIONS[-2])
        at += 1
        sent.clear()
        with listening(engine, "after_cursor_execute", interrupt), suppress(InterruptedError):
            with engine.begin() as connection:
                schema.upgrade(connection)
            is_through = True
        with engine.begin() as connection:
            schema.upgrade(connection)
            assert described(connection) == wanted, sent
    assert [statement for statement in sent if "ix_tasks_timed" in statement] != []


def test_raw_inserts_of_documented_columns_get_defaults(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.upgrade(connection)
        connection.execute(text(TASK))
        task = rows(connection, "tasks")[0]
    defaults = {"queue": "default", "status": "queued", "priority": 0, "claim_count": 0, "crash_count": 0}
    assert defaults.items() <= task.items()
    assert not any(task[flag] for flag in ("scheduled", "isolated", "cancel_requested"))
    assert task["created_at"] is not None


def test_times_that_the_database_gives_are_utc(engine: Engine) -> None:
    zones = {"postgresql": "SET TIME ZONE 'Asia/Tokyo'", "mariadb": "SET time_zone = '+09:00'"}
    with engine.begin() as connection:
        schema.upgrade(connection)
        if engine.dialect.name in zones:
            connection.execute(text(zones[engine.dialect.name]))
        connection.execute(text(TASK))
        created_at = connection.execute(select(Task.created_at)).scalar_one()
    assert created_at is not None
    assert abs((datetime.now(UTC) - created_at).total_seconds()) < 60


def test_an_apps_tables_are_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
        schema.upgrade(connection)
    alembic("check", url=engine.url)
    with engine.begin() as connection:
        schema.downgrade(connection, "base")
        left = set(inspect(connection).get_table_names())
    assert left == {"alembic_version", "orders", schema.VERSION_TABLE}


def test_alembic_upgrades_checks_and_downgrades(url: URL) -> None:
    alembic("upgrade", "head", url=url)
    assert f"{schema.HEAD} (head)" in alembic("current", url=url)
    alembic("check", url=url)
    alembic("downgrade", "base", url=url)
    assert alembic("current", url=url) == ""


def test_the_command_line_works_in_a_checkout(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{SQLITE_TASKS}; {TASK}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic", "upgrade", "head"],
        env={**os.environ, "SITQ_DATABASE_URL": f"sqlite:///{path}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Running upgrade {schema.REVISIONS[-2]} -> {schema.HEAD}" in done.stderr
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id, queue FROM tasks").fetchall() == [("a", "default")]


@pytest.mark.parametrize(("kind", "driver"), [("sqlite", "aiosqlite"), ("postgresql", "asyncpg")])
def test_an_async_url_serves_the_command_line(kind: str, driver: str, tmp_path: Path) -> None:
    pytest.importorskip(driver)
    with empty_database(kind, tmp_path) as url:
        async_url = url.set(drivername=f"{kind}+{driver}")
        alembic("upgrade", "head", url=async_url)
        alembic("check", url=async_url)


def test_the_url_of_x_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_x, by_environment, by_file = paths = [tmp_path / name for name in ("x.db", "environment.db", "file.db")]
    ini = tmp_path / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {schema.script_location()}\nsqlalchemy.url = sqlite:///{by_file}\n")

    def upgraded(url: URL | None) -> list[Path]:
        alembic("upgrade", "0001", url=url, ini=ini)
        return [path for path in paths if path.exists() and not path.unlink()]

    monkeypatch.delenv("SITQ_DATABASE_URL", raising=False)
    assert upgraded(None) == [by_file]
    monkeypatch.setenv("SITQ_DATABASE_URL", f"sqlite:///{by_environment}")
    assert upgraded(None) == [by_environment]
    assert upgraded(sqlite(by_x)) == [by_x]


def test_no_url_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SITQ_DATABASE_URL", raising=False)
    with pytest.raises(SystemExit, match="SITQ_DATABASE_URL"):
        alembic("upgrade", "head", url=None)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "mysql+pymysql"])
def test_offline_sql_holds_every_revision(scheme: str) -> None:
    pytest.importorskip(scheme.partition("+")[2])
    sql = alembic("upgrade", "head", sql=True, url=make_url(f"{scheme}://nobody@nowhere/nothing"))
    for wanted in (
        "CREATE TABLE tasks",
        "ADD COLUMN queue",
        "CREATE TABLE sitq_queues",
        "ix_tasks_lease",
        f"'{schema.HEAD}'",
    ):
        assert wanted in sql


def test_offline_sql_of_plain_revisions_on_sqlite(path: Path) -> None:
    sql = alembic("upgrade", "0002:head", sql=True, url=sqlite(path))
    assert "ADD COLUMN lease_until" in sql
    assert schema.HEAD in sql
    assert not path.exists()


def test_offline_sql_of_the_rebuild_on_sqlite_is_refused(path: Path) -> None:
    with pytest.raises(SchemaError, match="without --sql"):
        alembic("upgrade", "head", sql=True, url=sqlite(path))


def test_revision_1_on_sqlite_is_the_document_to_the_letter(path: Path) -> None:
    alembic("upgrade", "0001", url=sqlite(path))
    assert sqlite_master(path) == {"tasks": SQLITE_TASKS, "results": SQLITE_RESULTS}
    alembic("upgrade", "head", url=sqlite(path))
    alembic("downgrade", "0001", url=sqlite(path))
    assert sqlite_master(path) == {"tasks": SQLITE_TASKS, "results": SQLITE_RESULTS}


def test_keys_are_not_null_and_constraints_named_on_sqlite(path: Path) -> None:
    with engine_to_migrate(sqlite(path)).begin() as connection:
        schema.upgrade(connection)
    made = sqlite_master(path)
    assert "id TEXT NOT NULL" in made["tasks"]
    assert "CONSTRAINT pk_tasks PRIMARY KEY (id)" in made["tasks"]
    assert "CONSTRAINT fk_results_task_id_tasks FOREIGN KEY" in made["results"]


@pytest.mark.parametrize("kind", KINDS)
def test_hosts_that_upgrade_at_once_wait_for_each_other(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        environment = {**os.environ, "SITQ_DATABASE_URL": url.render_as_string(hide_password=False)}
        command = [sys.executable, "-W", "error", "-m", "alembic", "upgrade", "head"]
        running = [
            subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)
        ]
        errors = [process.communicate(timeout=60)[1] for process in running]
        assert [process.returncode for process in running] == [0] * 4, errors
        alembic("check", url=url)
