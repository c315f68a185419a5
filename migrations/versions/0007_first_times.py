"""The index of waiting tasks with a time, or with another attempt, begins with what a task counts as."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAME = "ix_tasks_timed"
TIMED = "status = 'queued' AND (due_at IS NOT NULL OR retry_count > 0)"


def upgrade() -> None:
    replace_index(["status", "scheduled", "retry_count", "queue", "due_at", "created_at"])


def downgrade() -> None:
    replace_index(["status", "scheduled", "queue", "due_at", "retry_count"])


def replace_index(columns: list[str]) -> None:
    if op.get_bind().dialect.name in ("mysql", "mariadb"):
        # At once: a change that was interrupted between the two could not be repeated, since each commits there.
        op.execute(f"ALTER TABLE tasks DROP INDEX {NAME}, ADD INDEX {NAME} ({', '.join(columns)})")
        return
    op.drop_index(NAME, table_name="tasks")
    where = sa.text(TIMED)
    op.create_index(NAME, "tasks", columns, sqlite_where=where, postgresql_where=where)
