"""An app's own Alembic: a script folder with a plain env.py, as the docs show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, MetaData, NullPool, create_engine

ENV = """\
from alembic import context

config = context.config
context.configure(
    connection=config.attributes["connection"],
    target_metadata=config.attributes["metadata"],
    include_object=config.attributes.get("include_object"),
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
"""

SCRIPT = '''\
"""${message}"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''


class AlembicApp:
    """Runs Alembic's commands as an app does, each over a connection of its own."""

    def __init__(self, folder: Path, url: URL, metadata: MetaData, *locations: str, **attributes: Any) -> None:
        self.versions = folder / "versions"
        self.versions.mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(SCRIPT)
        self.config = Config(attributes={"metadata": metadata, **attributes})
        self.config.set_main_option("script_location", str(folder))
        self.config.set_main_option("path_separator", "newline")
        self.config.set_main_option("version_locations", "\n".join([str(self.versions), *locations]))
        self.url = url

    def run(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.connect() as connection:
            self.config.attributes["connection"] = connection
            return verb(self.config, *args, **kwargs)

    def autogenerate(self, revision: str, **options: Any) -> str:
        """Write the script of the next revision, and return it."""
        script = self.run(command.revision, "the next", rev_id=revision, autogenerate=True, **options)
        return Path(script.path).read_text()

    def upgrade(self, revision: str) -> None:
        self.run(command.upgrade, revision)

    def require_nothing_to_do(self) -> None:
        """Raise if another autogenerate would write anything."""
        self.run(command.check)
