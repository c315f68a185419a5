"""``@sitq.task``: default options that a function carries with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from .exceptions import ConfigurationError, InvalidArgumentError
from .injection import signature_for_callers
from .task_options import NO_OPTIONS, FunctionOptions, TaskOptions, check_session_at_hand, parse_options

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "__sitq_options__"


@overload
def task(function: F, /) -> F: ...


@overload
def task(**options: Unpack[FunctionOptions]) -> Callable[[F], F]: ...


def task(function: Any = None, /, **options: Any) -> Any:
    """Give a function default options for whenever it is enqueued; it stays what it was, and is called as before.

    Use it as ``@task`` or as ``@task(priority=5, max_retries=3)``, on functions, async functions, methods and
    classes. The options are those of ``queue.options(...)`` but for ``eta``, which belongs to one call, and
    besides them two that a function alone can have: ``retry``, a function that is asked about each failure, and
    ``transactional=True``, with which it is given a session whose transaction commits together with the task's
    completion. What ``queue.options(...)`` gives goes before them.

    Raises:
        ConfigurationError: an option is unknown or its value is not allowed.
        InvalidArgumentError: the decorated object cannot be called, or cannot carry options, or it is
            transactional and has no parameter ``session``.
    """
    if "eta" in options:
        raise ConfigurationError("eta belongs to one call: give it to queue.options(eta=...)")
    chosen = parse_options(options)
    if function is None:
        return partial(_attach, chosen)
    return _attach(chosen, function)


def options_of(function: object) -> TaskOptions:
    """The options that ``@task`` gave to this function; of a partial, those of the function in it."""
    while isinstance(function, partial):
        function = function.func
    options = getattr(function, _ATTRIBUTE, NO_OPTIONS)
    return options if isinstance(options, TaskOptions) else NO_OPTIONS


def _attach(options: TaskOptions, function: Any) -> Any:
    # A class looks through these two when it hands out a method, so the function inside must carry the options.
    target = function.__func__ if isinstance(function, staticmethod | classmethod) else function
    if not callable(target):
        raise InvalidArgumentError(f"@task needs something that can be called, not {type(target).__name__}")
    carried = options_of(target).overridden_by(options)
    if carried.transactional:
        check_session_at_hand(carried.given())
        signature_for_callers(target, getattr(target, "__qualname__", type(target).__name__))
    try:
        setattr(target, _ATTRIBUTE, carried)
    except (AttributeError, TypeError) as exc:
        kind = type(target).__name__
        raise InvalidArgumentError(f"a {kind} cannot carry options: use queue.options(...).enqueue(...)") from exc
    return function
