"""What a forked child must not share with its parent: it is told to begin anew, and keeps what it inherited."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something that a forked child has to begin anew."""

    def begin_anew(self) -> None:
        """Leave alone what is the parent's, and begin as if nothing had been used."""


_watched: weakref.WeakSet[Inherited] = weakref.WeakSet()
_kept: list[object] = []


def watch(inherited: Inherited) -> None:
    """Let it begin anew in every child that this process forks, as long as it lives."""
    _watched.add(inherited)


def keep(parents: object) -> None:
    """Keep what belongs to the parent from being collected, since that would close it."""
    _kept.append(parents)


def _begin_anew() -> None:
    for inherited in list(_watched):
        inherited.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
