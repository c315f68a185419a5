"""The session that a transactional task is given: which parameter takes it, and the call with it in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, Final, NoReturn

from .exceptions import InvalidArgumentError

SESSION: Final = "session"
"""The name of the parameter."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Injected:
    """Stands for a session that has not been given yet."""

    def __repr__(self) -> str:
        return "sitq.injected"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what Python, a serializer or a debugger looks for
            raise AttributeError(name)
        raise InvalidArgumentError("a worker gives a transactional task its session; who calls it gives one himself")

    def __reduce__(self) -> str:
        return "injected"


injected: Final[Any] = _Injected()
"""The default value of ``session``, so that a type checker lets callers leave it out."""


def signature_for_callers(function: Callable[..., Any], name: str) -> inspect.Signature | None:
    """The signature without the session, which callers do not give; ``None`` where Python cannot tell it.

    Raises ``InvalidArgumentError`` if the function cannot be given a session.
    """
    if isinstance(function, partial) and SESSION in function.keywords:
        raise InvalidArgumentError(f"{name} is transactional: its session is given by the worker, not by a partial")
    signature = signature_of(function)
    if signature is None:
        return None
    taken = signature.parameters.get(SESSION)
    if taken is None and any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
        return signature
    if taken is None or taken.kind not in (taken.POSITIONAL_OR_KEYWORD, taken.KEYWORD_ONLY):
        raise InvalidArgumentError(
            f"{name} is transactional, so it needs a parameter called session, as in def {name.rpartition('.')[2]}"
            "(..., *, session: Session = sitq.injected)"
        )
    return signature.replace(parameters=[each for each in signature.parameters.values() if each is not taken])


def with_session(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], session: object
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a caller gave, and the session where the function takes it."""
    signature = signature_of(function)
    by_position = [
        name for name, each in (signature.parameters if signature else {}).items() if each.kind in _BY_POSITION
    ]
    if SESSION in by_position and len(args) >= by_position.index(SESSION):
        place = by_position.index(SESSION)
        return (*args[:place], session, *args[place:]), kwargs
    return args, {**kwargs, SESSION: session}


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a function itself: a decorator may add or take arguments of what it wraps."""
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return None


def is_async(function: object) -> bool:
    """Say whether calling this gives a coroutine, as far as can be seen without calling it."""
    while isinstance(function, partial):
        function = function.func
    if type(function) is FunctionType and function.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # most are, and this is the quickest way to see it
    if inspect.iscoroutinefunction(function):
        return True
    return type(function) is not FunctionType and inspect.iscoroutinefunction(type(function).__call__)
