"""What went wrong: the errors of every attempt, and a result's exception and traceback."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sitq.columns import LongText

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("errors", LongText))
    op.add_column("results", sa.Column("error_type", LongText))
    op.add_column("results", sa.Column("traceback", LongText))


def downgrade() -> None:
    op.drop_column("results", "traceback")
    op.drop_column("results", "error_type")
    op.drop_column("tasks", "errors")
