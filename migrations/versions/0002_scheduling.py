"""Names, queues, due times, unique keys, and queues that can be paused.

SQLite's two tables are rebuilt here, once: their keys become NOT NULL and their constraints get names, which
later revisions need. What somebody added to them (columns, indexes, triggers, checks) is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import context, op

from sitq.columns import Key, LongText, Moment, Real, Word
from sitq.documented import SQLITE_RESULTS, SQLITE_TASKS
from sitq.exceptions import SchemaError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Checks that somebody wrote without a name stay without.
NAMES = {"pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s"}


def scheduling_columns() -> list[sa.Column]:
    return [
        sa.Column("name", LongText),
        sa.Column("queue", Word, nullable=False, server_default=sa.text("'default'")),
        sa.Column("due_at", Moment),
        sa.Column("scheduled", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        sa.Column("expires_at", Moment),
        sa.Column("timeout", Real),
        sa.Column("unique_key", Key),
        sa.Column("options", LongText),
    ]


def upgrade() -> None:
    if on_sqlite():
        with rebuilding_sqlite(always=False):
            rebuild_tasks()
            rebuild_results()
    else:
        for column in scheduling_columns():
            op.add_column("tasks", column)
    create_indexes()
    op.create_table(
        "sitq_queues",
        sa.Column("name", Key, nullable=False),
        sa.Column("paused_at", Moment),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sitq_queues")),
    )


def create_indexes() -> None:
    waiting = "status = 'queued' AND scheduled = "
    create_index(
        "ix_tasks_claim", "status", "scheduled", "queue", sa.text("priority DESC"), "id", where=waiting + "FALSE"
    )
    create_index("ix_tasks_due", "status", "scheduled", "due_at", where=waiting + "TRUE")
    create_index("uq_tasks_unique_key", "unique_key", unique=True, where="unique_key IS NOT NULL")


def create_index(name: str, *columns: str | sa.TextClause, where: str, unique: bool = False) -> None:
    op.create_index(name, "tasks", columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_table("sitq_queues")
    for index in ("uq_tasks_unique_key", "ix_tasks_due", "ix_tasks_claim"):
        op.drop_index(index, table_name="tasks")
    if on_sqlite():
        with rebuilding_sqlite():
            make_again("tasks", SQLITE_TASKS, without={column.name for column in scheduling_columns()})
            make_again("results", SQLITE_RESULTS, without=set())
    else:
        for column in scheduling_columns():
            op.drop_column("tasks", column.name)


def on_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


@contextmanager
def rebuilding_sqlite(*, always: bool = True) -> Iterator[None]:
    """Take indexes and triggers off the tables, and put them back as they were written.

    Unless ``always``, new tables are rebuilt on a connection of any kind, such as one of an app's Alembic.
    """
    if context.is_offline_mode():
        raise SchemaError("on SQLite, revision 0002 copies the tables as it finds them: run it without --sql")
    connection = op.get_bind()
    if always or not is_new(connection):
        require_still_references(connection)
    written = connection.exec_driver_sql(
        "SELECT type, name, sql FROM sqlite_master WHERE lower(tbl_name) IN ('tasks', 'results') "
        "AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid"
    ).all()
    quote = connection.dialect.identifier_preparer.quote_identifier
    for kind, name, _ in written:
        connection.exec_driver_sql(f"DROP {kind} {quote(name)}")
    yield
    for _, _, sql in written:
        connection.exec_driver_sql(sql)


def is_new(connection: sa.Connection) -> bool:
    """Whether nothing is lost or moved with the old tables, as where an app's Alembic has just made them."""
    present = (
        "SELECT EXISTS (SELECT 1 FROM tasks) + EXISTS (SELECT 1 FROM results) + "
        "EXISTS (SELECT 1 FROM sqlite_master WHERE type IN ('view', 'trigger'))"
    )
    return connection.exec_driver_sql(present).scalar() == 0


def require_still_references(connection: sa.Connection) -> None:
    # With foreign keys enforced, dropping the old table would delete what refers to it; without the legacy
    # rename, references and views would follow the table that goes.
    enforced = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
    legacy = connection.exec_driver_sql("PRAGMA legacy_alter_table").scalar()
    if enforced or not legacy:
        raise SchemaError(
            "tables cannot be rebuilt on this connection: before the transaction begins, execute "
            "PRAGMA foreign_keys=OFF and PRAGMA legacy_alter_table=ON"
        )


def rebuild_tasks() -> None:
    # The documented key lets a NULL in; such a row keeps its place under an id of its own.
    op.execute("UPDATE tasks SET id = lower(hex(randomblob(16))) WHERE id IS NULL")
    # It lets a status be NULL too, and a claim looks for tasks that say that they wait.
    op.execute("UPDATE tasks SET status = 'queued' WHERE status IS NULL")
    with rebuilt("tasks") as batch:
        batch.alter_column("id", existing_type=sa.Text(), nullable=False)
        for column in scheduling_columns():
            batch.add_column(column)


def rebuild_results() -> None:
    op.execute("UPDATE results SET task_id = lower(hex(randomblob(16))) WHERE task_id IS NULL")
    keys = sa.inspect(op.get_bind()).get_foreign_keys("results")
    with rebuilt("results") as batch:
        batch.alter_column("task_id", existing_type=sa.Text(), nullable=False)
        if not any(key["constrained_columns"] == ["task_id"] for key in keys):
            batch.create_foreign_key("fk_results_task_id_tasks", "tasks", ["task_id"], ["id"])


def rebuilt(table: str):  # type: ignore[no-untyped-def]  # Alembic's own type is not public
    checks = sa.inspect(op.get_bind()).get_check_constraints(table)
    unnamed = [sa.CheckConstraint(sa.text(check["sqltext"])) for check in checks if not check["name"]]
    return op.batch_alter_table(table, recreate="always", table_args=unnamed, naming_convention=NAMES)


def make_again(table: str, sql: str, *, without: set[str]) -> None:
    """Make a documented table anew, add the columns that somebody added, and move the rows."""
    connection = op.get_bind()
    columns = [column for column in sa.inspect(connection).get_columns(table) if column["name"] not in without]
    op.rename_table(table, f"_sitq_old_{table}")
    op.execute(sql)
    made = {column["name"] for column in sa.inspect(connection).get_columns(table)}
    for column in columns:
        if column["name"] not in made:
            default = None if column["default"] is None else sa.text(f"({column['default']})")
            op.add_column(
                table, sa.Column(column["name"], column["type"], nullable=column["nullable"], server_default=default)
            )
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(quote(column["name"]) for column in columns if "computed" not in column)
    connection.exec_driver_sql(f"INSERT INTO {table} ({names}) SELECT {names} FROM _sitq_old_{table}")
    op.drop_table(f"_sitq_old_{table}")
