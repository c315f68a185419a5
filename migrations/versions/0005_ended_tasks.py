"""Ended tasks by queue, status and time: what counts them and purges them looks at no payload."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ended = sa.text("completed_at IS NOT NULL")
    op.create_index(
        "ix_tasks_ended",
        "tasks",
        ["queue", "status", "completed_at"],
        sqlite_where=ended,
        postgresql_where=ended,
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_ended", table_name="tasks")
