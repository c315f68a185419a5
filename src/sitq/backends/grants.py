"""The access lists as roles of a server: who may do what, in the words of each kind of database.

The server sees to it, whatever program the users come with. A role takes away what it does not have, so that a
user who moved from one list to another has what the new one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, inspect

from ..access import Role, check_users
from ..exceptions import ConfigurationError
from ..models import Models
from ..schema import VERSION_TABLE
from .engine_options import EngineOptions

Quote = Callable[[str], str]

READING = ("SELECT",)
WRITING = ("SELECT", "INSERT", "UPDATE", "DELETE")
MARIADB_PRIVILEGES = (
    *WRITING,
    *("CREATE", "DROP", "REFERENCES", "INDEX", "ALTER", "CREATE VIEW", "SHOW VIEW", "TRIGGER"),
)


class ServerOptions(EngineOptions, total=False):
    """``EngineOptions``, and users of the server who get roles by ``apply_grants``.

    Keys:
        read_only_users: who may look at everything.
        write_users: who may enqueue, work, cancel, retry and purge as well.
        admin_users: who may do everything with sitq's tables.
    """

    read_only_users: Iterable[str] | None
    write_users: Iterable[str] | None
    admin_users: Iterable[str] | None


@dataclass(frozen=True, slots=True)
class AccessLists:
    """The users of each role, a user only in the highest."""

    users: dict[Role, tuple[str, ...]]

    def require_some(self) -> None:
        """Raise ``ConfigurationError`` if there is nobody to give a role to."""
        if not any(self.users.values()):
            options = ", ".join(role.option for role in Role)
            raise ConfigurationError(f"there are no users to give a role to: give the backend {options}")


def take_lists(options: ServerOptions) -> AccessLists:
    """Take the lists out of the options, which keep those of the engine."""
    given = {
        Role.ADMIN: options.pop("admin_users", None),
        Role.WRITER: options.pop("write_users", None),
        Role.READER: options.pop("read_only_users", None),
    }
    users: dict[Role, tuple[str, ...]] = {}
    for role, names in given.items():
        higher = {user for some in users.values() for user in some}
        users[role] = tuple(sorted(set(check_users(role.option, () if names is None else names)) - higher))
    return AccessLists(users)


def privileges_of(role: Role, tables: list[str], everything: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each of the quoted tables, and what the role may do with it; admins may do everything."""
    tasks, results, *others = tables
    for table in (tasks, results):
        yield table, {Role.READER: READING, Role.WRITER: WRITING, Role.ADMIN: everything}[role]
    for table in others:  # whether queues are paused, and the revision of the schema
        yield table, everything if role is Role.ADMIN else READING


def tables_of(connection: Connection, models: Models, quote: Quote, schema: str) -> list[str]:
    """Tasks, results and the others, each with its schema; those that name none are in this one."""
    names = [(table.schema or schema, table.name) for table in models.tables]
    inside = names[0][0]
    if not models.app_owned and inspect(connection).has_table(VERSION_TABLE, schema=inside):
        names.append((inside, VERSION_TABLE))
    return [f"{quote(inside)}.{quote(name)}" for inside, name in names]


def postgresql_grants(
    connection: Connection, lists: AccessLists, models: Models, database: str, schema: str
) -> Iterator[str]:
    """The statements for PostgreSQL, to be run in one transaction."""
    tables = tables_of(connection, models, double_quoted, schema)
    for role, names in lists.users.items():
        if not names:
            continue
        users = ", ".join(map(double_quoted, names))
        yield f"GRANT CONNECT ON DATABASE {double_quoted(database)} TO {users}"
        for each in {schema, *(table.schema or schema for table in models.tables)}:
            yield f"GRANT USAGE ON SCHEMA {double_quoted(each)} TO {users}"
        for table, privileges in privileges_of(role, tables, ("ALL PRIVILEGES",)):
            yield f"REVOKE ALL PRIVILEGES ON TABLE {table} FROM {users}"
            yield f"GRANT {', '.join(privileges)} ON TABLE {table} TO {users}"


def mariadb_grants(connection: Connection, lists: AccessLists, models: Models, database: str) -> Iterator[str]:
    """The statements for MariaDB, each of which counts at once."""
    tables = tables_of(connection, models, backquoted, database)
    for role, names in lists.users.items():
        for user in map(account, names):
            for table, privileges in privileges_of(role, tables, MARIADB_PRIVILEGES):
                yield f"GRANT {', '.join(privileges)} ON {table} TO {user}"
                # What was never granted can be revoked only where something was.
                if others := [each for each in MARIADB_PRIVILEGES if each not in privileges]:
                    yield f"REVOKE {', '.join(others)} ON {table} FROM {user}"


def double_quoted(name: str) -> str:
    """A name as PostgreSQL reads it."""
    return '"' + name.replace('"', '""') + '"'


def backquoted(name: str) -> str:
    """A name as MariaDB reads it."""
    return "`" + name.replace("`", "``") + "`"


def account(name: str) -> str:
    """A user of MariaDB, as ``name`` or ``name@host``."""
    user, at, host = name.rpartition("@")
    return f"{backquoted(user)}@{backquoted(host)}" if at and user else f"{backquoted(name)}@`%`"
