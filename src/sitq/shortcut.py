"""What a way past SQLAlchemy's connection offers to a write that is one statement."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol


class Transacting(Protocol):
    """What begins a transaction, as a ``Connection`` does."""

    def begin(self) -> AbstractContextManager[Any]:
        """Begin one; the context manager has ``commit``, and rolls back what an error has kept from it."""


class Shortcut(Transacting, Protocol):
    """A way past a connection: as much of one as a write uses that executes one statement by ``store.compiled``."""

    @property
    def commits_itself(self) -> bool:
        """Whether the statement does, so that there is no moment after it and before the commit."""

    @property
    def is_open(self) -> bool:
        """Whether nobody would miss just now what the connection does besides."""
