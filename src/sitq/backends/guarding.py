"""The one place where access is controlled: before each public verb of a backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ..access import ADMINISTERS, OPEN, READS, WRITES

Backend = TypeVar("Backend", bound=type)
Verb = TypeVar("Verb", bound=Callable[..., Any])

DECLARED = READS | WRITES | ADMINISTERS | OPEN
SETTING_UP = frozenset({"use", "check_source"})
"""Public methods by which a backend is made, before it can be used."""


def guarded(backend: Backend) -> Backend:
    """Let every public verb of a class of backends ask ``self.access`` before it does anything."""
    for name in filter(is_verb, dir(backend)):
        verb = inspect.getattr_static(backend, name)
        if inspect.isfunction(verb) and not hasattr(verb, "sitq_action"):
            action = action_of(name)
            setattr(backend, name, open_to_all(verb, action) if action in OPEN else guard(verb, action))
    return backend


def guards_itself(action: str) -> Callable[[Verb], Verb]:
    """Mark a verb that asks by itself, since a wrapper's frame would show its arguments in tracebacks."""

    def mark(verb: Verb) -> Verb:
        verb.sitq_action = action  # type: ignore[attr-defined]
        return verb

    return mark


def is_verb(name: str) -> bool:
    """Whether a method of this name is for callers."""
    return not name.startswith("_") and name not in SETTING_UP


def action_of(name: str) -> str:
    """The action behind a verb or its async twin."""
    return name[1:] if name not in DECLARED and name.startswith("a") and name[1:] in DECLARED else name


def open_to_all(verb: Callable[..., Any], action: str) -> Callable[..., Any]:
    """Leave a verb as it is, since nobody is refused."""
    verb.sitq_action = action  # type: ignore[attr-defined]
    return verb


def guard(verb: Callable[..., Any], action: str) -> Callable[..., Any]:
    """Wrap one verb."""

    @wraps(verb)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.access.require(action)
        return verb(self, *args, **kwargs)

    @wraps(verb)
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.access.require(action)
        return await verb(self, *args, **kwargs)

    wrapper: Callable[..., Any] = acall if inspect.iscoroutinefunction(verb) else call
    wrapper.sitq_action = action  # type: ignore[attr-defined]  # shows that it asks, and for what
    return wrapper
