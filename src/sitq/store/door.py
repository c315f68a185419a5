"""What a store function runs its statements in: an app's session, or the connection of the backend's writer."""

from __future__ import annotations

from typing import TypeAlias

from sqlalchemy import Connection
from sqlalchemy.orm import Session

Door: TypeAlias = Session | Connection
"""Both execute alike; a session costs as much again as the statement that it executes."""


def connection_of(door: Door) -> Connection:
    """The connection behind a door. Nothing is sent to the database."""
    return door.connection() if isinstance(door, Session) else door
