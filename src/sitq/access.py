"""Who may do what: roles, the role that each action needs, and the acting user. Rules only; nothing is opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from enum import IntEnum
from typing import Final

from .exceptions import AccessDeniedError, ConfigurationError
from .options import check_name, refuse


class Role(IntEnum):
    """What a user may do; a higher role may all that a lower one may."""

    READER = 1
    WRITER = 2
    ADMIN = 3

    @property
    def option(self) -> str:
        """The option of the backend that gives the role."""
        return {Role.READER: "read_only_users", Role.WRITER: "write_users", Role.ADMIN: "admin_users"}[self]


READS: Final = frozenset(
    {"initialize", "get_task", "get_result", "has_result", "list_all_tasks", "list_tasks", "get_statuses"}
    | {"get_stats", "paused_queues", "next_due_at", "isolated_waiting", "cancel_requests", "check", "check_schema"}
)
WRITES: Final = frozenset(
    {"store_task", "store_result", "update_task_status", "enqueue", "enqueue_in", "claim", "finish", "finish_and_claim"}
    | {
        "extend",
        "reap",
        "reap_workers",
        "cancel",
        "retry",
        "cancel_selected",
        "retry_selected",
        "write_progress",
        "presence",
        "transact",
    }
)
ADMINISTERS: Final = frozenset(
    {"create", "upgrade", "pause_queue", "resume_queue", "backup", "restore", "purge", "vacuum", "optimize", "rekey"}
    | {"grants", "apply_grants", "use_clock"}
)
OPEN: Final = frozenset({"health_check", "now", "close", "require_transactions"})
"""Actions for everybody: they look at nothing that is stored, or tell of a denial in their own words."""


def role_for(action: str) -> Role | None:
    """The role that an action needs, ``None`` if it needs none. What is not listed is for admins."""
    if action in OPEN:
        return None
    return Role.READER if action in READS else Role.WRITER if action in WRITES else Role.ADMIN


class Access:
    """What the acting user may do. Without control everything is allowed to everybody.

    Args:
        user: the acting user.
        role: the user's role; ``None`` for a user on no list.
    """

    def __init__(self, user: str, role: Role | None) -> None:
        self.user = user
        self.role = role

    def require(self, action: str) -> None:
        """Raise ``AccessDeniedError`` unless the user may do this."""
        needed = role_for(action)
        if needed is None or (self.role is not None and self.role >= needed):
            return
        has = "is on none of the lists" if self.role is None else f"has the role {self.role.name.lower()}"
        raise AccessDeniedError(
            f"user {self.user!r} may not {action.replace('_', ' ')}: it needs the role {needed.name.lower()} "
            f"({needed.option}), and this user {has}"
        )


class NoControl(Access):
    """Everything is allowed."""

    def __init__(self) -> None:
        super().__init__("", Role.ADMIN)

    def require(self, action: str) -> None:
        """Allow it."""


NO_CONTROL: Final = NoControl()


def check_access(
    read_only_users: Iterable[str] | None,
    write_users: Iterable[str] | None,
    admin_users: Iterable[str] | None,
    user: str | None,
) -> Access:
    """Return what the acting user may do; with none of the lists there is no control.

    Raises ``ConfigurationError`` for a list that is none, and for a user where there is no list.
    """
    given = {Role.READER: read_only_users, Role.WRITER: write_users, Role.ADMIN: admin_users}
    lists = {role: check_users(role.option, users) for role, users in given.items() if users is not None}
    acting = None if user is None else check_name("user", user)
    if not lists:
        if acting is not None:
            raise ConfigurationError(
                f"user={acting!r} is not allowed without a list of users: "
                f"give {', '.join(role.option for role in Role)}, or leave it out"
            )
        return NO_CONTROL
    acting = operating_system_user() if acting is None else acting
    return Access(acting, max((role for role, users in lists.items() if acting in users), default=None))


def check_users(option: str, users: object) -> Collection[str]:
    """Return the names on a list, which may be empty; a bare text is refused, since its letters iterate."""
    if isinstance(users, str | bytes) or not isinstance(users, Iterable):
        refuse(option, users, "a list of names")
    return frozenset(check_name(option, user) for user in users)


def operating_system_user() -> str:
    """The user that this process runs as. On Unix it is not taken from the environment, which anybody may set."""
    if sys.platform == "win32":
        import getpass

        return getpass.getuser()
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run as a user without a name
        return str(os.geteuid())
