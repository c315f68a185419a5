"""A call becomes a row: the part of enqueueing that needs no database, shared by both queues."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from .claims import TaskRow
from .exceptions import ConfigurationError, InvalidArgumentError, SitqError
from .ids import new_id, new_ids
from .injection import SESSION, is_async, signature_for_callers, signature_of
from .pickling import is_lasting
from .serialization import Serializer
from .task_options import NO_OPTIONS, TaskOptions, is_task_option, parse_options
from .tasks import options_of

CHUNK = 10_000
"""``enqueue_many`` commits this many rows at once, all or none of them."""

STAMPS_TOGETHER, TOGETHER = 100, 0.001
"""So many rows of ``enqueue_many`` at most, and no longer than so many seconds, share the reading of a clock."""

REMEMBERED_SHAPES = 100  # of one function; more than that are made up as they come

CallRow: TypeAlias = tuple[Any, ...] | Mapping[str, Any]
"""The arguments of one call in ``enqueue_many``: positional ones, or keywords."""


Stamp: TypeAlias = tuple[datetime, str]
"""What makes a new task differ from every other: when it was enqueued, and its id."""


class Callee(NamedTuple):
    """What is known of a function without calling it.

    ``signature`` is without the session of a ``transactional`` function, and ``None`` where Python cannot tell it.
    Whether a call fits depends only on the number of
    its arguments and the names of its keywords, so ``fitting`` remembers those that did.
    """

    name: str
    signature: inspect.Signature | None
    fitting: set[tuple[object, ...]]
    transactional: bool = False


_callees: WeakKeyDictionary[object, Callee] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class CallPreparer:
    """Checks calls and turns them into the columns of new tasks.

    Attributes:
        serializer: makes their bytes.
        now: the backend's clock.
        options: what goes before the options that functions carry.
        require_transactions: raises where a transactional task, async or not, could not run; see ``BaseBackend``.
    """

    serializer: Serializer
    now: Callable[[], datetime]
    options: TaskOptions = NO_OPTIONS
    require_transactions: Callable[[bool], None] | None = None

    def with_options(self, values: Mapping[str, object]) -> CallPreparer:
        """The same with these options, as a user gave them, on top of its own."""
        for option in ("retry", "transactional"):
            if values.get(option) is not None:
                raise ConfigurationError(f"{option} belongs to the function: give it to @sitq.task({option}=...)")
        return replace(self, options=self.options.overridden_by(parse_options(values)))

    def row(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskRow:
        """The columns of a task that makes this call.

        Raises:
            InvalidArgumentError: it cannot be called, or not with these arguments.
            SerializationError: the function or an argument has no bytes form.
        """
        stamp = self.now(), new_id()
        return self._row(read_callee(function), self._options_of(function), stamp, function, args, kwargs)

    def _options_of(self, function: Callable[..., Any]) -> TaskOptions:
        return options_of(function).overridden_by(self.options)

    def _row(
        self,
        callee: Callee,
        options: TaskOptions,
        stamp: Stamp,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> TaskRow:
        if callee.transactional:
            self._check_transactional(callee, function, kwargs)
        check_arguments(callee, args, kwargs)
        now, task_id = stamp
        payload = self.serializer.dump_call(function, args, kwargs, task_id=task_id)
        row = options.columns(now)
        if options.unique_key is not None:
            row.update(options.key_columns(args, kwargs))
        row["id"], row["name"], row["created_at"], row["function"] = task_id, callee.name, now, payload.function
        if payload.args is not None:
            row["args"] = payload.args
        if payload.kwargs is not None:
            row["kwargs"] = payload.kwargs
        return row

    def _check_transactional(self, callee: Callee, function: object, kwargs: dict[str, Any]) -> None:
        if SESSION in kwargs:
            raise InvalidArgumentError(f"{callee.name} is given its session by the worker: leave out session=")
        if self.require_transactions is not None:
            self.require_transactions(is_async(function))

    def rows(self, function: Callable[..., Any], calls: Iterable[CallRow]) -> Iterator[TaskRow]:
        """Check what can be checked at once, then give ``row`` for each call as it is asked for."""
        return self._each(read_callee(function), function, iter(check_calls(calls)))

    def _each(self, callee: Callee, function: Callable[..., Any], calls: Iterator[object]) -> Iterator[TaskRow]:
        options, stamps = self._options_of(function), self._stamps()
        for number, call in enumerate(calls):
            try:
                yield self._row(callee, options, next(stamps), function, *split_call(call))
            except SitqError as exc:
                exc.add_note(f"It was row {number} of enqueue_many, counting from 0.")
                raise

    def _stamps(self) -> Iterator[Stamp]:
        """Stamps for rows that are made one after another; the clock is read anew after ``TOGETHER`` seconds."""
        while True:
            now, until = self.now(), time.monotonic() + TOGETHER
            for task_id in new_ids(STAMPS_TOGETHER):
                if time.monotonic() > until:  # those that are left would sort before what others have made meanwhile
                    break
                yield now, task_id


def check_calls(calls: object) -> Iterable[object]:
    """Return the rows given to ``enqueue_many``, or raise ``InvalidArgumentError`` for what cannot be rows."""
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Iterable):
        raise InvalidArgumentError(f"rows must be an iterable of tuples and dicts, not {type(calls).__name__}")
    return calls


def split_call(call: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional arguments and the keywords of one row given to ``enqueue_many``."""
    if isinstance(call, tuple):
        return call, {}
    if isinstance(call, Mapping) and all(isinstance(name, str) for name in call):
        return (), dict(call)
    kind = "dict with keys that are not texts" if isinstance(call, Mapping) else type(call).__name__
    raise InvalidArgumentError(f"a row must be a tuple of arguments or a dict of keywords, not a {kind}")


@contextmanager
def saying_what_stands(enqueued: Sequence[str]) -> Iterator[None]:
    """Add to an error how many rows were committed before it."""
    try:
        yield
    except Exception as exc:
        if enqueued:
            exc.add_note(f"The first {len(enqueued)} rows had been enqueued by then, and stay so.")
        raise


def check_arguments(callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ``InvalidArgumentError`` if the function cannot be called with these arguments."""
    shape = (len(args), *kwargs)
    if callee.signature is None or shape in callee.fitting:
        return
    try:
        callee.signature.bind(*args, **kwargs)
    except TypeError as exc:
        options = ", ".join(f"{name}=..." for name in kwargs if is_task_option(name))
        hint = f"; options of the task go through queue.options({options})" if options else ""
        raise InvalidArgumentError(f"the arguments do not fit {callee.name}: {exc}{hint}") from None
    if len(callee.fitting) < REMEMBERED_SHAPES:
        callee.fitting.add(shape)


def read_callee(function: object) -> Callee:
    """Say what is known of a function; raise ``InvalidArgumentError`` for what cannot be called."""
    if not is_lasting(function):
        return _read_callee(function)
    callee = _callees.get(function)
    if callee is None:
        callee = _callees[function] = _read_callee(function)
    return callee


def _read_callee(function: object) -> Callee:
    if not callable(function):
        advice = " (give the function itself, and its arguments after it)" if inspect.iscoroutine(function) else ""
        raise InvalidArgumentError(f"a task needs something that can be called, not {type(function).__name__}{advice}")
    name = readable_name(function)
    if options_of(function).transactional:
        return Callee(name, signature_for_callers(function, name), set(), transactional=True)
    return Callee(name, signature_of(function), set())


def readable_name(function: object) -> str:
    """The dotted name by which people know a function, such as ``shop.mail.send``; of an object, its class's."""
    while isinstance(function, partial):
        function = function.func
    named = function if isinstance(getattr(function, "__qualname__", None), str) else type(function)
    module = getattr(named, "__module__", None)
    name: str = named.__qualname__  # type: ignore[attr-defined]  # by the line above, or every class has one
    return f"{module}.{name}" if module else name
