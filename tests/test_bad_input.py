"""Wrong arguments for every public call of the queues, their options and the decorator, each with its error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from dict_backend import DictBackend
from sitq.exceptions import ConfigurationError, InvalidArgumentError
from sitq.queue import TaskQueue
from sitq.serialization import JSONSerializer
from sitq.sync import SyncTaskQueue
from sitq.tasks import task

INTEGER = "give an integer from -2147483648 to 2147483647"
SECONDS = "give a number of seconds or a timedelta, from {} to 3.15576e+09 seconds"
NAME = "give a printable text of 1 to {} characters that is not blank"
TEN_YEARS = "give a number of seconds or a timedelta, from 0 to 3.1536e+08 seconds"
EXCEPTIONS = "give an exception class, or a tuple of them"
KEY = "give a text without spaces at its ends, or a function of the task's arguments"
NAIVE = datetime(2026, 1, 2)  # noqa: DTZ001  # that it has no zone is the point

OPTIONS: list[tuple[str, Any, str, str]] = [
    ("priority", "high", "'high'", INTEGER),
    ("priority", 1.0, "1.0", INTEGER),
    ("priority", True, "True", INTEGER),
    ("priority", 2**31, "2147483648", INTEGER),
    ("priority", -(2**31) - 1, "-2147483649", INTEGER),
    ("max_retries", -1, "-1", "give an integer from 0 to 2147483647"),
    ("max_retries", 2.5, "2.5", "give an integer from 0 to 2147483647"),
    ("max_retries", False, "False", "give an integer from 0 to 2147483647"),
    ("queue", "", "''", NAME.format(255)),
    ("queue", "  ", "'  '", NAME.format(255)),
    ("queue", 5, "5", NAME.format(255)),
    ("queue", b"mail", "b'mail'", NAME.format(255)),
    ("queue", "a\x00b", r"'a\x00b'", NAME.format(255)),
    ("queue", "\ud800", r"'\ud800'", NAME.format(255)),
    ("queue", "q" * 256, "'" + "q" * 10, NAME.format(255)),
    ("delay", -0.5, "-0.5", SECONDS.format(0)),
    ("delay", timedelta(seconds=-1), "datetime.timedelta(days=-1, seconds=86399)", SECONDS.format(0)),
    ("delay", float("nan"), "nan", SECONDS.format(0)),
    ("delay", float("inf"), "inf", SECONDS.format(0)),
    ("delay", True, "True", SECONDS.format(0)),
    ("delay", "10", "'10'", SECONDS.format(0)),
    ("delay", timedelta.max, "datetime.timedelta(days=999999999", SECONDS.format(0)),
    ("timeout", 0, "0", SECONDS.format("more than 0")),
    ("timeout", -1, "-1", SECONDS.format("more than 0")),
    ("timeout", float("nan"), "nan", SECONDS.format("more than 0")),
    ("timeout", "1", "'1'", SECONDS.format("more than 0")),
    ("expires_in", 0, "0", SECONDS.format("more than 0")),
    ("expires_in", -5, "-5", SECONDS.format("more than 0")),
    ("expires_in", float("inf"), "inf", SECONDS.format("more than 0")),
    ("expires_in", "soon", "'soon'", SECONDS.format("more than 0")),
    ("retry_delay", -1, "-1", TEN_YEARS),
    ("retry_delay", timedelta(days=4000), "datetime.timedelta(days=4000)", TEN_YEARS),
    ("retry_delay", "1", "'1'", TEN_YEARS),
    ("retry_max_delay", float("nan"), "nan", TEN_YEARS),
    ("retry_max_delay", True, "True", TEN_YEARS),
    ("retry_backoff", 0.5, "0.5", "give a number from 1 to 1000"),
    ("retry_backoff", float("inf"), "inf", "give a number from 1 to 1000"),
    ("retry_backoff", True, "True", "give a number from 1 to 1000"),
    ("retry_jitter", 1.1, "1.1", "give a number from 0 to 1"),
    ("retry_jitter", float("nan"), "nan", "give a number from 0 to 1"),
    ("retry_jitter", "much", "'much'", "give a number from 0 to 1"),
    ("retry_on", (), "()", EXCEPTIONS),
    ("retry_on", "ValueError", "'ValueError'", EXCEPTIONS),
    ("retry_on", ValueError(), "ValueError()", EXCEPTIONS),
    ("retry_on", int, "<class 'int'>", EXCEPTIONS),
    ("give_up_on", (ValueError, "KeyError"), "(<class 'ValueError'>, 'KeyError')", EXCEPTIONS),
    ("give_up_on", True, "True", EXCEPTIONS),
    ("unique_key", 5, "5", KEY),
    ("unique_key", "k ", "'k '", KEY),
    ("unique_key", str, "<class 'str'>", "give a function"),
    ("unique_key", "", "''", NAME.format(255)),
    ("on_conflict", "update", "'update'", "give one of 'skip', 'replace', 'raise'"),
    ("on_conflict", True, "True", "give one of 'skip', 'replace', 'raise'"),
]
ETAS: list[tuple[Any, str]] = [
    (NAIVE, "datetime.datetime(2026, 1, 2, 0, 0)"),
    (1_700_000_000, "1700000000"),
    ("2026-01-02T00:00:00Z", "'2026-01-02T00:00:00Z'"),
    (timedelta(hours=1), "datetime.timedelta(seconds=3600)"),
]


def add(x: int, y: int = 0) -> int:
    return x + y


def give_options(**options: Any) -> list[Callable[[], object]]:
    return [
        lambda: TaskQueue(DictBackend()).options(**options),
        lambda: SyncTaskQueue(DictBackend()).options(**options),
        lambda: SyncTaskQueue(DictBackend()).options(priority=1).options(**options),
    ]


@pytest.mark.parametrize(("option", "value", "shown", "allowed"), OPTIONS)
def test_an_option_that_cannot_be_is_refused_where_it_is_given(option: str, value: Any, shown: str, allowed: str):
    for give in [*give_options(**{option: value}), lambda: task(**{option: value})]:
        with pytest.raises(ConfigurationError) as caught:
            give()
        assert str(caught.value).startswith(f"{option}={shown}")
        assert str(caught.value).endswith(f" is not allowed: {allowed}")


@pytest.mark.parametrize(("value", "shown"), ETAS)
def test_an_eta_must_have_a_time_zone(value: Any, shown: str):
    for give in give_options(eta=value):
        with pytest.raises(ConfigurationError) as caught:
            give()
        message = f"eta={shown} is not allowed: give a datetime with a time zone, as datetime.now(UTC) is"
        assert str(caught.value) == message


def test_an_unknown_option_is_answered_with_the_known_ones():
    known = "the options of a task are priority, eta, delay, queue, max_retries, timeout"
    for give in [*give_options(prio=5), lambda: task(prio=5)]:  # type: ignore[call-overload]
        with pytest.raises(ConfigurationError, match=f"there is no option 'prio': {known}"):
            give()


@pytest.mark.parametrize("value", [5, "ask", True, ValueError])
def test_the_function_that_is_asked_about_failures_is_a_function(value: Any):
    with pytest.raises(ConfigurationError, match=r"retry=.* is not allowed: give a function"):
        task(retry=value)


def test_only_the_decorator_takes_a_function_that_is_asked_about_failures():
    for give in give_options(retry=lambda failure: True):
        with pytest.raises(ConfigurationError, match="retry belongs to the function"):
            give()


@pytest.mark.parametrize("option", ["retry_delay", "retry_backoff", "retry_max_delay"])
def test_an_option_of_retries_needs_a_number_of_them(option: str):
    queue = SyncTaskQueue(DictBackend())
    with pytest.raises(ConfigurationError, match=f"{option} needs max_retries"):
        queue.options(**{option: 5}).enqueue(add, 1)  # type: ignore[arg-type]
    queue.options(**{option: 5}).options(max_retries=0).enqueue(add, 1)  # type: ignore[arg-type]


def test_eta_and_delay_exclude_each_other():
    for give in give_options(eta=datetime.now().astimezone(), delay=5):
        with pytest.raises(ConfigurationError, match="eta and delay exclude each other"):
            give()


def test_the_decorator_takes_no_eta():
    with pytest.raises(ConfigurationError, match="eta belongs to one call"):
        task(eta=datetime.now().astimezone())  # type: ignore[call-overload]


# (verb, arguments, keywords, error, what the message says)
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("enqueue", (None,), {}, InvalidArgumentError, "a task needs something that can be called, not NoneType"),
    ("enqueue", ("shop:send", 1), {}, InvalidArgumentError, "something that can be called, not str"),
    ("enqueue", (add(1, 2),), {}, InvalidArgumentError, "something that can be called, not int"),
    ("enqueue", (add,), {}, InvalidArgumentError, "do not fit test_bad_input.add: missing a required argument: 'x'"),
    ("enqueue", (add, 1), {"z": 2}, InvalidArgumentError, "got an unexpected keyword argument 'z'"),
    ("enqueue", (add, 1, 2, 3), {}, InvalidArgumentError, "too many positional arguments"),
    ("enqueue_many", (None, []), {}, InvalidArgumentError, "something that can be called, not NoneType"),
    ("enqueue_many", (add, None), {}, InvalidArgumentError, "rows must be an iterable of tuples and dicts, not None"),
    ("enqueue_many", (add, "rows"), {}, InvalidArgumentError, "rows must be an iterable of tuples and dicts, not str"),
    ("enqueue_many", (add, {"x": 1}), {}, InvalidArgumentError, "must be an iterable of tuples and dicts, not dict"),
    ("enqueue_many", (add, 5), {}, InvalidArgumentError, "rows must be an iterable of tuples and dicts, not int"),
    ("enqueue_many", (add, [1, 2]), {}, InvalidArgumentError, "a row must be a tuple of arguments or a dict of"),
    ("enqueue_many", (add, ["ab"]), {}, InvalidArgumentError, "or a dict of keywords, not a str"),
    ("enqueue_many", (add, [[1, 2]]), {}, InvalidArgumentError, "or a dict of keywords, not a list"),
    ("enqueue_many", (add, [{1: 2}]), {}, InvalidArgumentError, "not a dict with keys that are not texts"),
    ("enqueue_many", (add, [(1,), ()]), {}, InvalidArgumentError, "missing a required argument: 'x'"),
    ("get_task", (None,), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not None"),
    ("get_task", (5,), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not 5"),
    ("get_task", ("",), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not ''"),
    ("get_result", (b"id",), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not b'id'"),
    ("get_result", ("id",), {"timeout": -1}, ConfigurationError, "timeout=-1 is not allowed: " + SECONDS.format(0)),
    ("get_result", ("id",), {"timeout": float("nan")}, ConfigurationError, "timeout=nan is not allowed"),
    ("get_result", ("id",), {"timeout": True}, ConfigurationError, "timeout=True is not allowed"),
    ("get_result", ("id", "1"), {}, ConfigurationError, "timeout='1' is not allowed"),
    ("result", (["id"],), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not ['id']"),
    ("result", ("id",), {"timeout": float("inf")}, ConfigurationError, "timeout=inf is not allowed"),
    ("unwrap", (None,), {}, InvalidArgumentError, "unwrap needs a Result, not NoneType"),
    ("unwrap", ("id",), {}, InvalidArgumentError, "unwrap needs a Result, not str"),
    ("as_completed", ("id",), {}, InvalidArgumentError, "ids must be an iterable of ids, not str"),
    ("as_completed", (5,), {}, InvalidArgumentError, "ids must be an iterable of ids, not int"),
    ("as_completed", ([None],), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not None"),
    ("as_completed", (["id"],), {"timeout": -2}, ConfigurationError, "timeout=-2 is not allowed"),
    ("list", (), {"status": "done"}, ConfigurationError, "status='done' is not allowed: give one of 'queued', 'run"),
    ("list", (), {"status": 1}, ConfigurationError, "status=1 is not allowed: give one of"),
    ("list", (), {"queue": ""}, ConfigurationError, "queue='' is not allowed: " + NAME.format(255)),
    ("list", (), {"name": add}, ConfigurationError, " is not allowed: " + NAME.format(10_000)),
    ("list", (), {"limit": 0}, ConfigurationError, "limit=0 is not allowed: give an integer from 1 to 2147483647"),
    ("list", (), {"limit": True}, ConfigurationError, "limit=True is not allowed"),
    ("list", (), {"limit": "5"}, ConfigurationError, "limit='5' is not allowed"),
    ("cancel", (None,), {}, InvalidArgumentError, "ids must be an iterable of ids, not NoneType"),
    ("cancel", ("",), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not ''"),
    ("cancel", ([5],), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not 5"),
    ("cancel", ("id", 5), {}, ConfigurationError, "reason=5 is not allowed: give a text of at most 2000 characters"),
    ("cancel", ("id", "a\x00b"), {}, ConfigurationError, "reason='a\\x00b' is not allowed"),
    ("cancel", ("id", "r" * 2001), {}, ConfigurationError, "give a text of at most 2000 characters that can be"),
    ("cancel", ("id", "\ud800"), {}, ConfigurationError, "2000 characters that can be stored"),
    ("retry", (b"id",), {}, InvalidArgumentError, "ids must be an iterable of ids, not bytes"),
    ("retry", (["id", None],), {}, InvalidArgumentError, "a task's id is the text that enqueue returned, not None"),
    ("pause", ("",), {}, ConfigurationError, "queue='' is not allowed: " + NAME.format(255)),
    ("pause", (None,), {}, ConfigurationError, "queue=None is not allowed: " + NAME.format(255)),
    ("resume", (["mail"],), {}, ConfigurationError, "queue=['mail'] is not allowed: " + NAME.format(255)),
]


@pytest.mark.parametrize(("verb", "args", "kwargs", "error", "message"), CALLS)
@pytest.mark.parametrize("kind", [TaskQueue, SyncTaskQueue])
def test_a_call_with_wrong_arguments_says_what_is_wrong(
    kind: type[TaskQueue | SyncTaskQueue],
    verb: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
):
    async def call() -> None:
        answer = getattr(kind(DictBackend()), verb)(*args, **kwargs)
        if asyncio.iscoroutine(answer):
            await answer

    with pytest.raises(error) as caught:
        asyncio.run(call())
    assert isinstance(caught.value, ValueError)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [TaskQueue, SyncTaskQueue])
def test_a_queue_needs_a_backend_and_a_serializer(kind: type[TaskQueue | SyncTaskQueue]):
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"backend": "postgresql://ada:secret@db"}, "backend must be one such as SQLiteBackend('tasks.db'), not str"),
        ({"backend": DictBackend}, "backend must be one such as SQLiteBackend('tasks.db'), not type"),
        ({"backend": DictBackend(), "serializer": "json"}, "this has no dump_call, load_call, dump_result, load_resu"),
        ({"backend": DictBackend(), "serializer": JSONSerializer}, "such as JSONSerializer(), and not its class"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigurationError) as caught:
            kind(**arguments)
        assert message in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_coroutine_is_answered_with_what_to_give_instead():
    async def send(user: str) -> None: ...

    called = send("ada")
    with pytest.raises(InvalidArgumentError, match=r"not coroutine \(give the function itself, and its arguments"):
        SyncTaskQueue(DictBackend()).enqueue(called)  # type: ignore[arg-type]
    called.close()


def test_no_error_shows_an_arguments_value():
    queue = SyncTaskQueue(DictBackend())
    for args, kwargs in [(("hunter2", 1, 2), {}), (("hunter2",), {"z": "hunter2"}), ((), {"y": "hunter2"})]:
        with pytest.raises(InvalidArgumentError) as caught:
            queue.enqueue(add, *args, **kwargs)
        assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__}"
