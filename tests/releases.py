"""A release that comes after this one: the same code and one revision of the schema more, made from the tree."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sitq import schema

LATER = f"{int(schema.HEAD) + 1:04}"
"""The revision of the next release."""

COLUMNS = """\
    colour: Mapped[str | None] = mapped_column(LongText, default=None)
    weight: Mapped[int] = mapped_column(Integer, server_default=ZERO, default=7)
"""

REVISION = f'''
"""What the next release adds."""

import sqlalchemy as sa
from alembic import op

from sitq.columns import LongText

revision = "{LATER}"
down_revision = "{schema.HEAD}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if WITH_COLUMNS:
        op.add_column("tasks", sa.Column("colour", LongText))
        op.add_column("tasks", sa.Column("weight", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.create_index("ix_tasks_next", "tasks", ["claim_count"])


def downgrade() -> None:
    raise NotImplementedError
'''


def next_release(folder: Path, *, with_columns: bool) -> Path:
    """Make the next release, and return the folder to import it from. It always adds an index, and columns if told."""
    package = folder / "sitq"
    shutil.copytree(Path(schema.__file__).parent, package)
    shutil.copytree(schema.script_location(), package / "migrations", dirs_exist_ok=True)
    (package / "migrations" / "versions" / f"{LATER}_next.py").write_text(
        REVISION.replace("WITH_COLUMNS", str(with_columns))
    )
    replace_once(package / "schema.py", f'"{schema.HEAD}")\n', after=f'"{schema.HEAD}", "{LATER}")\n')
    index = '        Index(f"ix_{table_name}_next", "claim_count"),\n'
    replace_once(
        package / "indexes.py",
        '        PartialIndex(f"ix_{table_name}_lease"',
        index + '        PartialIndex(f"ix_{table_name}_lease"',
    )
    if with_columns:
        column = "    function: Mapped[bytes] = mapped_column(Payload)\n"
        replace_once(package / "models.py", column, column + COLUMNS)
    return folder


def replace_once(file: Path, before: str, after: str) -> None:
    """Replace a text that stands once in a file."""
    text = file.read_text()
    assert text.count(before) == 1, f"{file} was to have {before!r} once"
    file.write_text(text.replace(before, after))


def hold(told: str) -> int:
    """Tell who runs by a file that bears the process's number, and wait until the gate beside it is open."""
    import os

    folder = Path(told)
    (folder / str(os.getpid())).touch()
    while not (folder / "gate").exists():
        time.sleep(0.02)
    return os.getpid()
