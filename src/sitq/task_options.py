"""The options of a task: what ``@sitq.task(...)`` and ``queue.options(...)`` take, and the columns they decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, TypedDict

from .claims import TaskRow
from .exceptions import ConfigurationError
from .failures import dotted_name
from .options import (
    DEFAULT_QUEUE,
    Seconds,
    check_bool,
    check_choice,
    check_int,
    check_moment,
    check_name,
    check_number,
    check_seconds,
    refuse,
)
from .retry import LONGEST_DELAY, Answer, FailedAttempt

Exceptions: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
"""An exception class, or several."""

CONFLICTS = ("skip", "replace", "raise")
"""What may happen where another unfinished task bears the unique key."""


class SharedOptions(TypedDict, total=False):
    """What both ``@sitq.task(...)`` and ``queue.options(...)`` take; ``None`` is the same as leaving an option out.

    Keys:
        priority: higher runs first; 0 unless given.
        delay: how long after enqueueing the task is due.
        queue: the queue's name; ``"default"`` unless given.
        max_retries: how often a failure is followed by another attempt; 0 unless given.
        timeout: for how long one attempt may run; without limit unless given.
        expires_in: for how long after it is due an attempt may begin; then the task is cancelled.
        retry_delay: the wait before the first retry; 1 second unless given.
        retry_backoff: what each further wait is multiplied by, 1 to 1000; 2 unless given.
        retry_max_delay: no wait is longer than this; an hour unless given.
        retry_jitter: up to this share of each wait is taken off at random, 0 to 1; a quarter unless given.
        retry_on: the exceptions that are retried; all of them unless given.
        give_up_on: those that are not, whatever ``retry_on`` says.
        unique_key: a text that one unfinished task may bear at a time, or what makes it of the arguments.
        on_conflict: what to do where another task bears the key: ``"skip"`` unless given, ``"replace"``, ``"raise"``.
        max_crashes: after so many deaths of its worker while it ran alone the task fails; 3 unless given, and
            ``None`` is without limit.
        on_crash: ``"retry"`` unless given; ``"fail"`` lets the task fail as soon as its worker dies.
        executor: ``"process"`` runs the function in a process of its own; otherwise in the worker's.
        memory_limit: how many bytes that process may use.
    """

    priority: int | None
    delay: Seconds | None
    queue: str | None
    max_retries: int | None
    timeout: Seconds | None
    expires_in: Seconds | None
    retry_delay: Seconds | None
    retry_backoff: float | None
    retry_max_delay: Seconds | None
    retry_jitter: float | None
    retry_on: Exceptions | None
    give_up_on: Exceptions | None
    unique_key: str | Callable[..., str] | None
    on_conflict: Literal["skip", "replace", "raise"] | None
    max_crashes: int | None
    on_crash: Literal["retry", "fail"] | None
    executor: Literal["process"] | None
    memory_limit: int | None


class FunctionOptions(SharedOptions, total=False):
    """What ``@sitq.task(...)`` takes: the options of a call, and those that only a function can carry.

    Keys:
        retry: asked about each failure that ``retry_on`` and ``give_up_on`` allow; says ``True``, ``False``
            or after how many seconds.
        transactional: the function is given a session, whose transaction commits together with the task's
            completion.
    """

    retry: Callable[[FailedAttempt], Answer | timedelta] | None
    transactional: bool | None


class CallOptions(SharedOptions, total=False):
    """What ``queue.options(...)`` takes: the options of a function, and those of one call.

    Keys:
        eta: the moment at which the task is due, with a time zone; excludes ``delay``.
    """

    eta: datetime | None


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Checked options in their plain form; ``None`` where nothing was given. Made by ``parse_options``."""

    priority: int | None = None
    eta: datetime | None = None
    delay: float | None = None
    queue: str | None = None
    max_retries: int | None = None
    timeout: float | None = None
    expires_in: float | None = None
    retry_delay: float | None = None
    retry_backoff: float | None = None
    retry_max_delay: float | None = None
    retry_jitter: float | None = None
    retry_on: tuple[str, ...] | None = None
    give_up_on: tuple[str, ...] | None = None
    retry: Callable[[FailedAttempt], Answer | timedelta] | None = None
    unique_key: str | Callable[..., str] | None = None
    on_conflict: str | None = None
    max_crashes: int | None = None
    on_crash: str | None = None
    executor: str | None = None
    memory_limit: int | None = None
    transactional: bool | None = None

    def overridden_by(self, other: TaskOptions) -> TaskOptions:
        """These options, with what ``other`` gives in place of them; its eta replaces a delay and vice versa."""
        if self is NO_OPTIONS or other is NO_OPTIONS:
            return self if other is NO_OPTIONS else other
        given = other.given()
        if given.keys() & {"eta", "delay"}:
            given = {"eta": None, "delay": None, **given}
        return replace(self, **given)

    def given(self) -> dict[str, Any]:
        """The options that have a value."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def columns(self, now: datetime) -> TaskRow:
        """The columns of a task enqueued ``now`` that these options decide; those that stay NULL are left out.

        Raises ``ConfigurationError`` for an option that means nothing without another.
        """
        columns = self._fixed_columns.copy()
        if self.delay is not None:
            columns["due_at"] = now + timedelta(seconds=self.delay)
        if self.expires_in is not None:
            columns["expires_at"] = _later(columns.get("due_at", now), self.expires_in)
        return columns

    def key_columns(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TaskRow:
        """The columns that the unique key of a call decides; none without a key."""
        if self.unique_key is None:
            return {}
        key = self.unique_key
        if callable(key):
            key = check_key("unique_key", key(*args, **kwargs))
        # Kept apart from the column, which is empty when the task has ended: it may be retried.
        columns = {"unique_key": key, "options": json.dumps(self._stored | {"unique_key": key})}
        return columns if self.on_conflict is None else columns | {"on_conflict": self.on_conflict}

    @cached_property
    def _fixed_columns(self) -> TaskRow:
        given = self.given()
        check_together(given)
        columns: TaskRow = {"queue": DEFAULT_QUEUE, "priority": 0, "max_retries": 0}
        columns |= {option: given[option] for option in _COLUMNS if option in given}
        if self.eta is not None:
            columns["due_at"] = self.eta
        if self._stored:
            columns["options"] = json.dumps(self._stored)
        return columns

    @cached_property
    def _stored(self) -> dict[str, Any]:
        return {option: value for option, value in self.given().items() if option in _STORED}


def _later(moment: datetime, seconds: float) -> datetime:
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


_COLUMNS = ("queue", "priority", "max_retries", "timeout")
_RETRY = ("retry_delay", "retry_backoff", "retry_max_delay", "retry_jitter", "retry_on", "give_up_on", "retry")
_STORED = (*_RETRY[:-1], "max_crashes", "on_crash", "executor", "memory_limit")
"""What goes into the column ``options``, which only a worker reads."""


def check_exceptions(option: str, value: object) -> tuple[str, ...]:
    """Return the dotted names of an exception class, or of several."""
    classes = tuple(value) if isinstance(value, tuple | list | set | frozenset) else (value,)
    if not classes or not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
        refuse(option, value, "an exception class, or a tuple of them")
    return tuple(dotted_name(each) for each in classes)


def check_function(option: str, value: object) -> Callable[..., Any]:
    """Return a function."""
    if not callable(value) or isinstance(value, type):
        refuse(option, value, "a function")
    return value


def check_key(option: str, value: object) -> str | Callable[..., Any]:
    """Return a key, or the function that makes one out of a call's arguments."""
    if callable(value):
        return check_function(option, value)
    # At its ends, since some databases compare texts without regard to spaces there.
    if not isinstance(value, str) or value != value.strip():
        refuse(option, value, "a text without spaces at its ends, or a function of the task's arguments")
    return check_name(option, value)


def check_flag(option: str, value: object) -> bool | None:
    """Return ``True``, or ``None`` for ``False``."""
    return check_bool(option, value) or None


NO_OPTIONS = TaskOptions()

NO_LIMIT = 0
"""What stands for ``max_crashes=None``, since ``None`` is an option that was not given."""

LEAST_MEMORY = 16 * 2**20
"""Bytes; less than that is taken by the interpreter itself."""

_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "priority": check_int,
    "eta": check_moment,
    "delay": check_seconds,
    "queue": check_name,
    "max_retries": partial(check_int, at_least=0),
    "timeout": partial(check_seconds, zero=False),
    "expires_in": partial(check_seconds, zero=False),
    "retry_delay": partial(check_seconds, at_most=LONGEST_DELAY),
    "retry_backoff": partial(check_number, at_least=1, at_most=1000),
    "retry_max_delay": partial(check_seconds, at_most=LONGEST_DELAY),
    "retry_jitter": partial(check_number, at_least=0, at_most=1),
    "retry_on": check_exceptions,
    "give_up_on": check_exceptions,
    "retry": check_function,
    "unique_key": check_key,
    "on_conflict": partial(check_choice, allowed=CONFLICTS),
    "max_crashes": partial(check_int, at_least=1),
    "on_crash": partial(check_choice, allowed=("retry", "fail")),
    "executor": partial(check_choice, allowed=("process",)),
    "memory_limit": partial(check_int, at_least=LEAST_MEMORY, at_most=2**62),
    "transactional": check_flag,
}


def parse_options(values: Mapping[str, object]) -> TaskOptions:
    """Check what a user gave as keywords; raise ``ConfigurationError`` for the first that cannot be."""
    for option in values:
        if option not in _CHECKS:
            raise ConfigurationError(f"there is no option {option!r}: the options of a task are {', '.join(_CHECKS)}")
    given = {option: value for option, value in values.items() if value is not None}
    if "eta" in given and "delay" in given:
        raise ConfigurationError("eta and delay exclude each other: give the moment, or how long from now")
    checked = {option: _CHECKS[option](option, value) for option, value in given.items()}
    if "max_crashes" in values and values["max_crashes"] is None:
        checked["max_crashes"] = NO_LIMIT
    return TaskOptions(**checked)


def check_together(given: Collection[str]) -> None:
    """Raise ``ConfigurationError`` for an option that would change nothing."""
    for option in _RETRY:
        if option in given and "max_retries" not in given:
            raise ConfigurationError(f"{option} needs max_retries, which is 0 unless it is given")
    if "memory_limit" in given and "executor" not in given:
        raise ConfigurationError('memory_limit needs executor="process"')
    check_session_at_hand(given)
    if "on_conflict" in given and "unique_key" not in given:
        raise ConfigurationError("on_conflict needs unique_key")


def check_session_at_hand(given: Collection[str]) -> None:
    """Raise ``ConfigurationError`` for a transactional task that would run where there is no session for it."""
    if "executor" in given and "transactional" in given:
        raise ConfigurationError('a transactional task cannot have executor="process": its session is in the worker')


def is_task_option(name: str) -> bool:
    """Say whether this is the name of an option of a task."""
    return name in _CHECKS
