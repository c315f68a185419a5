"""How Alembic reaches the database: through a connection given from Python, or a URL from the command line."""

from __future__ import annotations

import os
from logging.config import fileConfig
from typing import Any

from alembic import context
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from sitq.backends.dialects import dialect_of
from sitq.backends.engine_options import EngineOptions, take_schema
from sitq.dialect import Dialect
from sitq.engines import Engines
from sitq.models import Base
from sitq.schema import VERSION_TABLE

config = context.config
target_metadata = Base.metadata


def database_url() -> tuple[URL, EngineOptions]:
    """The URL from ``-x url=``, else from ``SITQ_DATABASE_URL``, else from the ini file; and the schema.

    PostgreSQL's schema is named by ``-x schema=``, or by ``?schema=`` in the URL.
    """
    given = context.get_x_argument(as_dictionary=True)
    options: EngineOptions = {"schema": given["schema"]} if "schema" in given else {}
    url = given.get("url") or os.environ.get("SITQ_DATABASE_URL") or config.get_main_option("sqlalchemy.url")
    if not url:
        raise SystemExit("no database: give -x url=…, set SITQ_DATABASE_URL, or sqlalchemy.url in alembic.ini")
    return take_schema(make_url(url), options)


def is_ours(name: str | None, type_: str, parent_names: Any) -> bool:
    """Leave an app's tables in the same database alone."""
    return type_ != "table" or name in target_metadata.tables


def configure(**options: Any) -> None:
    context.configure(
        target_metadata=target_metadata,
        version_table=VERSION_TABLE,
        include_name=is_ours,
        render_as_batch=True,
        compare_type=True,
        compare_server_default=True,
        transactional_ddl=True,
        **options,
    )


def migrate(connection: Connection) -> None:
    configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


def migrate_offline(url: URL, options: EngineOptions) -> None:
    configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    schema = options.get("schema")
    with context.begin_transaction():
        if schema is not None:
            quoted = url.get_dialect()().identifier_preparer.quote_identifier(schema)
            context.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
            context.execute(f"SET LOCAL search_path TO {quoted}")
        context.run_migrations()


def migrate_online(url: URL, options: EngineOptions) -> None:
    """Migrate over the driver that the URL names, while nobody else changes the schema."""
    create = create_async_engine if url.get_dialect().is_async else create_engine
    dialect = dialect_of(create(url, poolclass=NullPool), **options)
    engines = Engines(dialect)
    try:
        engines.call(migrate_alone, dialect, engines.called_engine)
    finally:
        engines.close(lambda engine: None)


def migrate_alone(dialect: Dialect, engine: Engine) -> None:
    with dialect.lock_schema(engine) as connection:
        migrate(connection)


def run() -> None:
    given = config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    if config.config_file_name and config.file_config.has_section("loggers"):
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    url, options = database_url()
    if context.is_offline_mode():
        migrate_offline(url, options)
    else:
        migrate_online(url, options)


run()
