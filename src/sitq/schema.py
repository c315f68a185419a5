"""The schema in a database: what it is, and how it becomes what this version needs.

Every function works on a sync ``Connection`` and never commits. Those that alter something (``ensure``,
``upgrade``, ``downgrade``) want a transaction in which nobody else alters the schema, begun by the caller:

- on SQLite ``PRAGMA foreign_keys=OFF`` and ``PRAGMA legacy_alter_table=ON``, then ``BEGIN IMMEDIATE``;
- on PostgreSQL a transaction that holds an advisory lock;
- on MariaDB a connection that holds a named lock (its DDL commits as it goes).

On SQLite and PostgreSQL the alteration is whole or not at all: roll back if it raises.

Alembic is imported only when something is to be altered. It works on one database at a time in a process, so
these functions wait for each other; on an event loop, call them in a thread.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
)

from .comparison import differences, lacks
from .documented import DOCUMENTED, documented_tables
from .exceptions import SchemaError, SchemaOutdatedError, SchemaTooNewError, SitqWarning
from .models import OWN_MODELS, Base

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""Every revision that this version knows, the oldest first."""

HEAD = REVISIONS[-1]
"""The revision that this version works with."""

VERSION_TABLE = "sitq_alembic_version"

_alembic = threading.Lock()

_version = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), primary_key=True, nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What a look at the database found.

    Attributes:
        revision: the recorded revision, or ``None`` where sitq has not been. Where an app owns or upgrades the
            tables, nothing is recorded: it is ``HEAD`` if they have what this version needs.
        tables: which tables of sitq's names exist, the version table among them.
    """

    revision: str | None
    tables: frozenset[str]

    @property
    def is_current(self) -> bool:
        """Whether this version can work with it as it is."""
        return self.revision == HEAD

    @property
    def is_newer(self) -> bool:
        """Whether a later version of sitq has altered it; see ``check_newer``."""
        return self.revision is not None and self.revision not in REVISIONS

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there, not even tables made by hand."""
        return self.revision is None and self.tables <= {VERSION_TABLE}

    @property
    def is_outdated(self) -> bool:
        """Whether something is there that must be upgraded: an older schema, or tables made by hand."""
        return not (self.is_current or self.is_newer or self.is_empty)


def read_state(connection: Connection) -> SchemaState:
    """Look which revision is recorded and which tables exist: two short queries.

    Raises ``SchemaError`` if what is recorded makes no sense.
    """
    names = {name.casefold() for name in inspect(connection).get_table_names()}
    tables = frozenset(names & {*Base.metadata.tables, VERSION_TABLE})
    if VERSION_TABLE not in tables and tables >= Base.metadata.tables.keys():
        return SchemaState(_unrecorded_revision(connection), tables)
    revision = _recorded_revision(connection) if VERSION_TABLE in tables else None
    missing = (Base.metadata.tables if revision == HEAD else DOCUMENTED).keys() - tables
    if revision is not None and missing:
        raise SchemaError(
            f"revision {revision} is recorded in {VERSION_TABLE}, but the table {min(missing)!r} is missing; "
            f"restore a backup, or drop sitq's tables to begin anew"
        )
    return SchemaState(revision, tables)


def _unrecorded_revision(connection: Connection) -> str | None:
    """The revision of tables that an app's Alembic upgrades, which records it in a table of the app's."""
    missing = next(lacks(connection, OWN_MODELS.tables), None)
    if missing is None:
        return HEAD
    queues = {column["name"] for column in inspect(connection).get_columns("sitq_queues")}
    if {*OWN_MODELS.queue_state.__table__.c.keys()} <= queues:  # type: ignore[attr-defined]  # it is mapped
        raise SchemaOutdatedError(
            f"the tables are not what this version of sitq needs: {missing}. No revision is recorded in "
            f"{VERSION_TABLE}, so they are upgraded by an app's Alembic: run its upgrade, such as "
            f"alembic upgrade sitq@head"
        )
    return None


def ensure(connection: Connection, *, auto_upgrade: bool, target: str) -> None:
    """Bring the schema to what this version needs, or say why not.

    An empty database gets its tables. An older schema, and documented tables made by hand, are upgraded with
    their rows. A newer one is checked and left as it is. A look with ``read_state`` may save the transaction.

    Args:
        connection: in a transaction, as the module says.
        auto_upgrade: whether an older schema may be upgraded.
        target: the path or URL, without password, as it stands in the command that the error names.

    Raises:
        SchemaOutdatedError: it is older, lacks more than indexes, and ``auto_upgrade`` is false.
        SchemaTooNewError: it is newer, and this version cannot work with it.
        ForeignTableError: a table bears one of the names and belongs to someone else.
        SchemaError: what is recorded makes no sense.
    """
    state = read_state(connection)
    if state.is_empty:
        create(connection)
    elif state.is_outdated and auto_upgrade:
        upgrade(connection)
    else:
        _require_served(connection, state, target)


def create(connection: Connection) -> None:
    """Make the tables in a database that has none, at once as they are at ``HEAD``, and record it.

    They are what the migrations make, in a twentieth of the time, and Alembic need not be imported.
    """
    documented_tables(connection)
    Base.metadata.create_all(connection)
    _version.create(connection, checkfirst=True)
    connection.execute(insert(_version).values(version_num=HEAD))


def check(connection: Connection, *, target: str) -> None:
    """``ensure`` for a database that may only be read: alter nothing, and raise what ``ensure`` raises.

    Raises ``SchemaError`` also if there are no tables yet.
    """
    state = read_state(connection)
    if state.is_empty:
        raise SchemaError(f"{target} has no tables of sitq yet; open it once to write, or run: sitq upgrade {target}")
    _require_served(connection, state, target)


def check_newer(connection: Connection, state: SchemaState) -> None:
    """Warn once if a newer schema only has more than this version knows, else raise ``SchemaTooNewError``."""
    difference = next(differences(connection, OWN_MODELS.tables), None)
    if difference is not None:
        raise SchemaTooNewError(
            f"the database has the schema of revision {state.revision}, this version of sitq knows {HEAD} and "
            f"cannot work with it: {difference}; upgrade sitq"
        )
    warnings.warn(
        f"the database has the schema of revision {state.revision}, newer than {HEAD} of this version of sitq; "
        f"what was added is left alone; upgrade sitq when you can",
        SitqWarning,
        stacklevel=2,
    )


def check_older(connection: Connection, state: SchemaState, *, target: str) -> None:
    """Warn once if an older schema lacks nothing but indexes, else raise ``SchemaOutdatedError``."""
    if state.revision is None:
        documented_tables(connection)
    elif not any(differences(connection, OWN_MODELS.tables)):
        warnings.warn(
            f"{target} has the schema of revision {state.revision}, older than {HEAD} of this version of sitq; "
            f"it lacks indexes only, which make some questions faster; run: sitq upgrade {target}",
            SitqWarning,
            stacklevel=2,
        )
        return
    raise outdated(state, target)


def outdated(state: SchemaState, target: str) -> SchemaOutdatedError:
    """The error about an older schema: it names both revisions and the command."""
    found = state.revision or f"{REVISIONS[0]}, made by hand"
    return SchemaOutdatedError(
        f"{target} has the schema of revision {found}, and this version of sitq needs {HEAD}; "
        f"run: sitq upgrade {target}"
    )


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Upgrade to ``revision``, also from nothing and from documented tables made by hand.

    Raises what ``ensure`` raises; ``SchemaError`` also for an unknown revision.
    """
    state = read_state(connection)
    _require_known(state)
    if state.revision is None:
        documented_tables(connection)
    _run_alembic(connection, "upgrade", revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Take the schema back to ``revision``, rows kept; ``"base"`` drops the tables.

    Raises ``SchemaError`` for an unknown revision, ``SchemaTooNewError`` if the database's is unknown.
    """
    _require_known(read_state(connection))
    _run_alembic(connection, "downgrade", revision)


def script_location() -> Path:
    """Return the folder of the migrations: in the installed package, or in the checkout."""
    package = Path(__file__).parent
    for folder in (package / "migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaError(f"the migrations are missing: neither {package} nor its checkout has them; install sitq again")


def _recorded_revision(connection: Connection) -> str | None:
    rows = connection.execute(select(_version.c.version_num)).scalars().all()
    if not rows:
        return None
    revision: str = rows[0]
    if len(rows) > 1 or not _is_revision(revision):
        raise SchemaError(
            f"{VERSION_TABLE} holds {', '.join(repr(row) for row in rows)}, where one revision from "
            f"{REVISIONS[0]} on is expected; correct it to the revision that the tables have"
        )
    return revision


def _is_revision(value: object) -> bool:
    # Revisions are numbered, so that one which this version does not know is either later or nonsense.
    return value in REVISIONS or (isinstance(value, str) and len(value) == 4 and value.isdecimal() and value > HEAD)


def _require_served(connection: Connection, state: SchemaState, target: str) -> None:
    if state.is_newer:
        check_newer(connection, state)
    elif state.is_outdated:
        check_older(connection, state, target=target)


def _require_known(state: SchemaState) -> None:
    if state.is_newer:
        raise SchemaTooNewError(
            f"the database has the schema of revision {state.revision}, and this version of sitq knows the way "
            f"up to {HEAD} only; use the version that upgraded it"
        )


def _run_alembic(connection: Connection, direction: Literal["upgrade", "downgrade"], revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    run = command.upgrade if direction == "upgrade" else command.downgrade
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    with _alembic:
        try:
            run(config, revision)
        except CommandError as error:
            raise SchemaError(str(error)) from error
