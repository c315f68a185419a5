"""Leases, crashes, cancellation and progress."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sitq.columns import LongText, Moment, Real, Word

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def lease_columns() -> list[sa.Column]:
    return [
        sa.Column("worker_id", Word),
        sa.Column("claim_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("lease_until", Moment),
        sa.Column("crash_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("isolated", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("FALSE")),
        sa.Column("progress", Real),
        sa.Column("progress_note", LongText),
    ]


def upgrade() -> None:
    for column in lease_columns():
        op.add_column("tasks", column)
    running = sa.text("status = 'running'")
    op.create_index(
        "ix_tasks_lease", "tasks", ["status", "lease_until"], sqlite_where=running, postgresql_where=running
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_lease", table_name="tasks")
    for column in reversed(lease_columns()):
        op.drop_column("tasks", column.name)
