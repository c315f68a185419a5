"""Waiting tasks with a time, or with another attempt, and tasks that are over: what counts them looks at no row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIMED = "status = 'queued' AND (due_at IS NOT NULL OR retry_count > 0)"
ENDED = "completed_at IS NOT NULL"
OVER = f"{ENDED} OR status IS NULL OR status NOT IN ('queued', 'running')"


def upgrade() -> None:
    # First, for it locks the most: whoever locks less at first and more later waits for those who wait for it.
    op.drop_index("ix_tasks_ended", table_name="tasks")
    create_index("ix_tasks_timed", ["status", "scheduled", "queue", "due_at", "retry_count"], TIMED)
    create_index("ix_tasks_history", ["queue", "status", "completed_at"], OVER)


def downgrade() -> None:
    for name in ("ix_tasks_history", "ix_tasks_timed"):
        op.drop_index(name, table_name="tasks")
    create_index("ix_tasks_ended", ["queue", "status", "completed_at"], ENDED)


def create_index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "tasks", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
