"""Waiting tasks with a time, or with another attempt: what counts them looks at no row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    timed = sa.text("status = 'queued' AND (due_at IS NOT NULL OR retry_count > 0)")
    op.create_index(
        "ix_tasks_timed",
        "tasks",
        ["status", "scheduled", "queue", "due_at", "retry_count"],
        sqlite_where=timed,
        postgresql_where=timed,
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_timed", table_name="tasks")
