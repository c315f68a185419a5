"""The index of waiting tasks with a time, or with another attempt, by attempts: what was never tried is one range."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIMED = "status = 'queued' AND (due_at IS NOT NULL OR retry_count > 0)"


def upgrade() -> None:
    replace_index(["status", "scheduled", "retry_count", "queue", "due_at", "created_at"])


def downgrade() -> None:
    replace_index(["status", "scheduled", "queue", "due_at", "retry_count"])


def replace_index(columns: list[str]) -> None:
    op.drop_index("ix_tasks_timed", table_name="tasks")
    where = sa.text(TIMED)
    op.create_index("ix_tasks_timed", "tasks", columns, sqlite_where=where, postgresql_where=where)
