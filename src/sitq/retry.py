"""The retry rule: whether a failed attempt is followed by another, and when. Pure; the clock is an argument."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from .exceptions import ConfigurationError

LONGEST_DELAY = 10 * 365 * 86_400.0
"""The largest ``max_delay``, in seconds: ten years."""


def _check(option: str, value: object, least: float, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most or value == math.inf:  # type: ignore[operator]  # a number
        allowed = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ConfigurationError(f"{option}={value!r} is not allowed: give a number, {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait before a task is tried again: ``delay``, then longer each time, up to ``max_delay``.

    Attributes:
        delay: seconds before the first retry, 0 or more.
        backoff: what each further wait is multiplied by, 1 or more; 1 keeps the waits equal.
        max_delay: no wait is longer than this, in seconds.
        jitter: up to this share of each wait is taken off at random, 0 to 1, so that tasks which failed
            together do not come back together.

    Raises ``ConfigurationError`` for a value that is not allowed.
    """

    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        _check("delay", self.delay, 0.0, LONGEST_DELAY)
        _check("backoff", self.backoff, 1.0, math.inf)
        _check("max_delay", self.max_delay, 0.0, LONGEST_DELAY)
        _check("jitter", self.jitter, 0.0, 1.0)


DEFAULT_POLICY = RetryPolicy()
"""What holds for a task that says nothing else."""

_POLICY_OPTIONS = {
    "retry_delay": "delay",
    "retry_backoff": "backoff",
    "retry_max_delay": "max_delay",
    "retry_jitter": "jitter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """Which failures of a task are retried, and after how long.

    Attributes:
        policy: how long to wait.
        retry_on: dotted names of the exceptions that are retried, with their subclasses; ``None`` is every one.
        give_up_on: dotted names of those that are not, whatever ``retry_on`` says.
    """

    policy: RetryPolicy = DEFAULT_POLICY
    retry_on: frozenset[str] | None = None
    give_up_on: frozenset[str] = frozenset()

    def covers(self, kinds: Collection[str]) -> bool:
        """Whether an exception may be retried whose class and base classes have these dotted names."""
        wanted = self.retry_on is None or not self.retry_on.isdisjoint(kinds)
        return wanted and self.give_up_on.isdisjoint(kinds)


DEFAULT_RULE = RetryRule()
"""Every failure is retried, as long as ``max_retries`` allows."""


@lru_cache(maxsize=256)
def read_rule(options: str | None) -> RetryRule:
    """Return what a task's ``options`` column says of retries; one that cannot be read says nothing."""
    if options is None:
        return DEFAULT_RULE
    try:
        stored: dict[str, Any] = json.loads(options)
        policy = {field: stored[option] for option, field in _POLICY_OPTIONS.items() if option in stored}
        retry_on = stored.get("retry_on")
        return RetryRule(
            policy=RetryPolicy(**policy),
            retry_on=None if retry_on is None else frozenset(retry_on),
            give_up_on=frozenset(stored.get("give_up_on", ())),
        )
    except (ValueError, TypeError, AttributeError):
        return DEFAULT_RULE


class FailedAttempt(NamedTuple):
    """What a function given as ``retry=`` is told of a failure.

    Attributes:
        type: dotted name of the exception's class.
        message: its message.
        attempt: how many attempts have failed, with this one; snoozing does not count.
        max_retries: how many failures may be retried in all.
        error: the exception, or ``None`` where it was raised in another process.
    """

    type: str
    message: str
    attempt: int
    max_retries: int
    error: BaseException | None


Answer: TypeAlias = bool | float | None
"""Whether to retry: ``True`` after the policy's wait, ``False`` never, a number after so many seconds.

``None`` leaves it to the rule.
"""


def next_attempt(
    rule: RetryRule,
    *,
    now: datetime,
    retry_count: int,
    max_retries: int,
    random: Callable[[], float],
    kinds: Collection[str] = (),
    answer: Answer = None,
) -> datetime | None:
    """Return when a task that has just failed is due again, or ``None`` to give it up.

    Args:
        rule: which failures are retried, and how long to wait.
        now: the time of the failure.
        retry_count: how many of its failures were retried before this one.
        max_retries: how many failures may be retried in all, whatever rule and answer say.
        random: gives numbers from 0 up to 1, as ``random.random`` does.
        kinds: dotted names of the exception's class and of its base classes.
        answer: what was said about this one failure; it goes before the rule.
    """
    if retry_count >= max_retries or answer is False or (answer is None and not rule.covers(kinds)):
        return None
    if answer is None or answer is True:
        wait = wait_before_retry(rule.policy, retry_count=retry_count, random=random)
    else:
        wait = min(max(answer, 0.0), LONGEST_DELAY)
    return now + timedelta(seconds=wait)


def wait_before_retry(policy: RetryPolicy, *, retry_count: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait after a failure that ``retry_count`` retried failures went before."""
    try:
        wait = policy.delay * policy.backoff**retry_count
    except OverflowError:
        wait = math.inf if policy.delay else 0.0
    return min(wait, policy.max_delay) * (1.0 - policy.jitter * random())
