"""PostgreSQL: sitq's own tables in a schema of their own, beside others in the same database."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Engine, MetaData, NullPool, create_engine, inspect, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateSchema

import app_models
import sitq
from databases import empty_database, engine_to_migrate
from sitq import (
    ConfigurationError,
    PostgreSQLBackend,
    SchemaError,
    SchemaOutdatedError,
    SQLAlchemyBackend,
    open_backend,
    schema,
)
from sitq.testing.records import completed, new_row, request
from working import LONG, at_work

ODD = 'of "Ada": ; é'
TABLES = {"tasks", "results", "sitq_queues", schema.VERSION_TABLE}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[URL]:
    with empty_database("postgresql", tmp_path) as url:
        yield url


@pytest.fixture
def engine(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool)


def tables_in(engine: Engine, name: str) -> set[str]:
    return set(inspect(engine).get_table_names(schema=name))


def test_the_schema_is_made_with_its_tables_and_nothing_elsewhere(url: URL, engine: Engine) -> None:
    for name in ("sitq", ODD):
        with PostgreSQLBackend(url, schema=name) as backend:
            ids = backend.enqueue([new_row(), new_row()])
            backend.finish([completed(claim) for claim in backend.claim(request(limit=1))])
            assert backend.has_result(ids[0])
            backend.pause_queue("mail")
            backend.check_schema()
            assert backend.health_check().schema_revision == schema.HEAD
            task = backend.models.task
            with engine.connect() as connection:
                assert connection.execute(select(task.id).where(task.is_due)).all() == [(ids[1],)]
            assert sitq.SyncTaskQueue(backend).cancel(select(task)) == {ids[0]: "ended", ids[1]: "cancelled"}
        assert tables_in(engine, name) == TABLES
    assert tables_in(engine, "public") == set()


def test_several_live_side_by_side(url: URL) -> None:
    async def scenario() -> None:
        for name in ("one", "two", None):
            # Two backends, so that the worker hears of the task as another process would.
            worker = at_work(PostgreSQLBackend(url, schema=name), poll_interval=20 * LONG)
            async with worker, PostgreSQLBackend(url, schema=name) as backend:
                queue = sitq.TaskQueue(backend)
                assert await queue.result(await queue.enqueue(max, 1, 2), timeout=LONG) == 2
                assert len(await backend.alist_all_tasks()) == 1

    asyncio.run(scenario())


def test_tables_that_an_app_owns_may_be_in_its_schema(url: URL, engine: Engine) -> None:
    metadata = MetaData(schema="shop")
    models = sitq.declare_models(metadata, prefix="")
    with closing(SQLAlchemyBackend(engine, models=models)) as backend:
        with pytest.raises(SchemaError, match="the table tasks is missing"):
            backend.check_schema()
        with engine.begin() as connection:
            connection.execute(CreateSchema("shop"))
            metadata.create_all(connection)
        backend.check_schema()
        ids = backend.enqueue([new_row() for _ in range(200)])
        assert len(backend.claim(request(limit=200))) == len(ids)
        assert backend.list_all_tasks() == ids
    assert tables_in(engine, "public") == set()


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg"])
def test_engines_of_an_app_are_lent_for_a_schema(url: URL, engine: Engine, driver: str) -> None:
    async def scenario() -> None:
        lent = create_async_engine(url.set(drivername=driver), isolation_level="AUTOCOMMIT")
        async with at_work(SQLAlchemyBackend(lent, schema="apart")) as queue:
            assert await queue.result(await queue.enqueue(max, 1, 2), timeout=LONG) == 2
            await queue.backend.acheck_schema()  # type: ignore[attr-defined]
        await lent.dispose()

    asyncio.run(scenario())
    assert tables_in(engine, "apart") == TABLES


def test_an_older_schema_is_upgraded_where_it_is(url: URL) -> None:
    with PostgreSQLBackend(url) as other:
        other.enqueue([new_row()])
    engine = engine_to_migrate(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA apart"))
        connection.execute(text("SET LOCAL search_path TO apart"))
        schema.upgrade(connection, "0002")
        connection.execute(text("INSERT INTO tasks (id, function) VALUES ('a', 'x')"))
    outdated = pytest.raises(SchemaOutdatedError, match=r"0002.*sitq upgrade postgresql.*\?schema=apart")
    with closing(PostgreSQLBackend(url, schema="apart", auto_upgrade=False)) as backend, outdated:
        backend.initialize()
    with open_backend(f"{url.render_as_string(hide_password=False)}?schema=apart") as backend:
        assert backend.list_all_tasks() == ["a"]
        backend.check_schema()  # type: ignore[attr-defined]


def test_rows_are_copied_and_backed_up_and_roles_are_given_there(url: URL, tmp_path: Path) -> None:
    with (
        sitq.SQLiteBackend(tmp_path / "tasks.db") as source,
        PostgreSQLBackend(url, schema="apart", write_users=["postgres"]) as backend,
    ):
        ids = source.enqueue([new_row(), new_row()])
        assert sitq.copy(source, backend).complete
        backend.backup(tmp_path / "backup.db")
        backend.purge(older_than=0)
        backend.enqueue([new_row()])
        backend.restore(tmp_path / "backup.db")
        assert backend.list_all_tasks() == ids
        backend.apply_grants()
        assert 'ON TABLE "apart"."tasks"' in backend.grants()
        assert '"public".' not in backend.grants()


def alembic_config(**arguments: str) -> Config:
    config = Config(output_buffer=io.StringIO())
    config.set_main_option("script_location", str(schema.script_location()))
    given = [f"{name}={value}" for name, value in arguments.items()]
    config.cmd_opts = type("Options", (), {"x": given})()
    return config


def test_alembic_is_told_of_the_schema(url: URL, engine: Engine) -> None:
    named = url.render_as_string(hide_password=False)
    command.upgrade(alembic_config(url=named, schema="apart"), "head")
    assert tables_in(engine, "apart") == TABLES
    assert tables_in(engine, "public") == set()
    command.downgrade(alembic_config(url=f"{named}?schema=apart"), "base")
    assert tables_in(engine, "apart") <= {schema.VERSION_TABLE}
    offline = alembic_config(url=named, schema="later")
    command.upgrade(offline, "head", sql=True)
    assert isinstance(offline.output_buffer, io.StringIO)
    with engine.begin() as connection:
        connection.exec_driver_sql(offline.output_buffer.getvalue().replace("BEGIN;", "").replace("COMMIT;", ""))
    with PostgreSQLBackend(url, schema="later") as backend:
        backend.check_schema()


@pytest.mark.parametrize(
    "make",
    [
        lambda: open_backend("tasks.db", schema="x"),
        lambda: open_backend("sqlite:///tasks.db", schema="x"),
        lambda: SQLAlchemyBackend("sqlite:///tasks.db", schema="x"),
        lambda: SQLAlchemyBackend(create_engine("sqlite://"), schema="x"),
        lambda: sitq.MariaDBBackend("mariadb+pymysql://root@127.0.0.1/x", schema="x"),
        lambda: open_backend("mariadb+pymysql://root@127.0.0.1/x?schema=x"),
    ],
)
def test_where_there_are_no_schemas_none_is_taken(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"schema='x' .*only PostgreSQL"):
        make()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"schema": ""}, "schema="),
        ({"schema": 5}, "schema="),
        ({"schema": "100%"}, "without '%'"),
        ({"schema": "x" * 56}, "schema="),
        ({"schema": "x", "models": app_models.MODELS}, "names its schema"),
    ],
)
def test_a_schema_that_is_none_is_refused(options: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        PostgreSQLBackend("postgresql://localhost/x", **options)


def test_the_url_and_the_option_do_not_differ() -> None:
    with pytest.raises(ConfigurationError, match=r"schema='y' .*the URL names"):
        PostgreSQLBackend("postgresql://localhost/x?schema=x", schema="y")
