"""The documented tables.

Tables that were made by hand with the documented statements are taken over as they are; one that merely bears
such a name stops the migration.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from sitq.columns import Key, LongText, Moment, Payload, Word, utc_now
from sitq.documented import SQLITE_RESULTS, SQLITE_TASKS, documented_tables

revision = "0001"
down_revision = None
branch_labels = ("sitq",)
depends_on = None


def upgrade() -> None:
    present = frozenset() if context.is_offline_mode() else documented_tables(op.get_bind())
    on_sqlite = op.get_context().dialect.name == "sqlite"
    if "tasks" not in present:
        op.execute(SQLITE_TASKS) if on_sqlite else create_tasks()
    if "results" not in present:
        op.execute(SQLITE_RESULTS) if on_sqlite else create_results()


def create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", Key, nullable=False),
        sa.Column("function", Payload, nullable=False),
        sa.Column("args", Payload),
        sa.Column("kwargs", Payload),
        sa.Column("priority", sa.Integer, server_default=sa.text("0")),
        sa.Column("status", Word, server_default=sa.text("'queued'")),
        sa.Column("created_at", Moment, server_default=utc_now()),
        sa.Column("started_at", Moment),
        sa.Column("completed_at", Moment),
        sa.Column("retry_count", sa.Integer, server_default=sa.text("0")),
        sa.Column("max_retries", sa.Integer, server_default=sa.text("0")),
        sa.Column("error_message", LongText),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )


def create_results() -> None:
    op.create_table(
        "results",
        sa.Column("task_id", Key, nullable=False),
        sa.Column("value", Payload),
        sa.Column("is_error", sa.Boolean, server_default=sa.text("FALSE")),
        sa.Column("error_message", LongText),
        sa.Column("completed_at", Moment, server_default=utc_now()),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_results")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_results_task_id_tasks")),
    )


def downgrade() -> None:
    op.drop_table("results")
    op.drop_table("tasks")
