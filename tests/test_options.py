from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from functools import partial, wraps

import pytest

from sitq.exceptions import ConfigurationError, InvalidArgumentError
from sitq.options import check_bool, check_choice, check_int, check_name, check_names, check_seconds
from sitq.task_options import NO_OPTIONS, parse_options
from sitq.tasks import options_of, task

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_no_options_are_the_documented_defaults():
    assert NO_OPTIONS.columns(NOW) == {"queue": "default", "priority": 0, "max_retries": 0}


def test_each_option_becomes_its_column():
    options = parse_options({"priority": -3, "queue": "mail", "max_retries": 2, "timeout": timedelta(minutes=1)})
    assert options.columns(NOW) == {"queue": "mail", "priority": -3, "max_retries": 2, "timeout": 60.0}


def test_columns_are_the_callers_to_change():
    options = parse_options({"priority": 1})
    options.columns(NOW)["priority"] = 2
    assert options.columns(NOW)["priority"] == 1


def test_delay_counts_from_now_and_eta_is_kept_in_utc():
    assert parse_options({"delay": 1.5}).columns(NOW)["due_at"] == NOW + timedelta(seconds=1.5)
    assert parse_options({"delay": timedelta(days=1)}).columns(NOW)["due_at"] == NOW + timedelta(days=1)
    eta = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    due_at = parse_options({"eta": eta}).columns(NOW)["due_at"]
    assert due_at == eta
    assert due_at.utcoffset() == timedelta(0)


def test_what_only_a_worker_reads_is_stored_as_json():
    options = parse_options(
        {"max_retries": 1, "retry_delay": timedelta(seconds=2), "retry_on": OSError, "give_up_on": (KeyError, OSError)}
    )
    assert json.loads(options.columns(NOW)["options"]) == {
        "retry_delay": 2.0,
        "retry_on": ["builtins.OSError"],
        "give_up_on": ["builtins.KeyError", "builtins.OSError"],
    }
    assert "options" not in parse_options({"max_retries": 1}).columns(NOW)


def test_a_key_is_kept_apart_from_its_column_too():
    options = parse_options({"unique_key": lambda x, y: f"{x}-{y}", "on_conflict": "raise", "max_retries": 1})
    columns = options.key_columns((1,), {"y": 2})
    assert columns == {"unique_key": "1-2", "options": '{"unique_key": "1-2"}', "on_conflict": "raise"}
    assert parse_options({}).key_columns((1,), {}) == {}


def test_an_expiry_counts_from_the_due_time():
    later = NOW + timedelta(seconds=30)
    assert parse_options({"expires_in": 30}).columns(NOW)["expires_at"] == later
    assert parse_options({"expires_in": 10, "delay": 20}).columns(NOW)["expires_at"] == later
    assert parse_options({"expires_in": 20, "eta": NOW + timedelta(seconds=10)}).columns(NOW)["expires_at"] == later


def test_what_would_expire_after_the_last_date_expires_then() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert parse_options({"expires_in": 1, "eta": last}).columns(NOW)["expires_at"] == last


def test_none_is_the_same_as_not_given():
    values = dict.fromkeys(["priority", "eta", "delay", "queue", "max_retries", "timeout"])
    assert parse_options(values) == NO_OPTIONS


def test_later_options_go_before_earlier_ones():
    merged = parse_options({"priority": 1, "queue": "a"}).overridden_by(parse_options({"priority": 2, "timeout": 3}))
    assert merged.given() == {"priority": 2, "queue": "a", "timeout": 3.0}


def test_a_given_eta_replaces_a_default_delay_and_the_other_way_round():
    delayed, fixed = parse_options({"delay": 5}), parse_options({"eta": NOW})
    assert delayed.overridden_by(fixed).given() == {"eta": NOW}
    assert fixed.overridden_by(delayed).given() == {"delay": 5.0}
    assert delayed.overridden_by(parse_options({"priority": 1})).given() == {"priority": 1, "delay": 5.0}


def test_numbers_within_limits_pass():
    assert check_int("n", 3, at_least=3, at_most=3) == 3
    assert check_seconds("s", 0) == 0.0
    assert check_seconds("s", timedelta(milliseconds=5)) == 0.005


def test_names_come_once_each_in_their_order():
    assert check_names("queues", ["b", "a", "b"]) == ("b", "a")
    assert check_names("queues", (name for name in ["x"])) == ("x",)
    with pytest.raises(ConfigurationError, match="queues='abc' is not allowed: give a list of names"):
        check_names("queues", "abc")
    with pytest.raises(ConfigurationError, match="at least one"):
        check_names("queues", [])


def test_choices_may_be_written_in_any_case_where_allowed():
    assert check_choice("mode", "wal", ["WAL", "DELETE"], any_case=True) == "WAL"
    with pytest.raises(ConfigurationError, match="mode='wal' is not allowed: give one of 'WAL', 'DELETE'"):
        check_choice("mode", "wal", ["WAL", "DELETE"])


def test_only_booleans_are_booleans():
    assert check_bool("debug", False) is False
    with pytest.raises(ConfigurationError, match="debug=1 is not allowed: give True or False"):
        check_bool("debug", 1)


def test_a_long_value_is_shortened_and_an_endless_one_left_out():
    with pytest.raises(ConfigurationError) as caught:
        check_name("queue", "x" * 10_000)
    assert len(str(caught.value)) < 400
    with pytest.raises(ConfigurationError, match="priority=<int>"):
        check_int("priority", 10**5000)


# The decorator.


def test_a_decorated_function_is_the_same_function():
    def add(x: int, y: int) -> int:
        return x + y

    assert task(add) is add
    assert task(priority=5)(add) is add
    assert add(2, 3) == 5
    assert options_of(add).given() == {"priority": 5}


def test_a_function_without_decorator_has_no_options():
    assert options_of(len) is NO_OPTIONS
    assert options_of(lambda: None) is NO_OPTIONS


def test_decorators_pile_up_the_outer_one_first():
    @task(priority=5)
    @task(priority=1, queue="mail")
    def send() -> None: ...

    assert options_of(send).given() == {"priority": 5, "queue": "mail"}


class Mailer:
    @task(queue="mail")
    def send(self) -> None: ...

    @task(queue="static")
    @staticmethod
    def check() -> None: ...

    @task(queue="class")
    @classmethod
    def build(cls) -> None: ...

    @staticmethod
    @task(queue="inside")
    def inner() -> None: ...


@task(max_retries=4)
class Import:
    def __call__(self) -> None: ...


def test_methods_classes_and_partials_carry_options():
    assert options_of(Mailer().send).queue == "mail"
    assert options_of(Mailer.check).queue == "static"
    assert options_of(Mailer.build).queue == "class"
    assert options_of(Mailer.inner).queue == "inside"
    assert options_of(partial(partial(Mailer.check))).queue == "static"
    assert options_of(Import()).max_retries == 4


def test_a_wrapper_takes_the_options_along():
    @task(priority=7)
    def inner() -> None: ...

    @wraps(inner)
    def outer() -> None: ...

    assert options_of(outer).priority == 7


def test_options_survive_pickling():
    options = parse_options({"priority": 3, "delay": 2})
    options.columns(NOW)
    assert pickle.loads(pickle.dumps(options)) == options


def test_what_cannot_carry_options_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"builtin_function_or_method cannot carry options: use queue\.opt"):
        task(len)
    with pytest.raises(InvalidArgumentError, match="can be called, not str"):
        task("high")
