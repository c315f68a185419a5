from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq import failures
from sitq.failures import Failure, append_failure, describe, read_failures

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no message")


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def test_a_failure_names_type_message_and_place() -> None:
    failure = describe(raised(ValueError("no such file")))
    assert failure.type == "builtins.ValueError"
    assert failure.message == "no such file"
    assert failure.traceback is not None
    assert "raise exc" in failure.traceback
    assert failure.traceback.endswith("ValueError: no such file\n")


def test_an_exception_without_a_message_of_its_own_is_described_all_the_same() -> None:
    failure = describe(raised(MuteError()))
    assert failure.type.endswith("MuteError")
    assert "could not be made" in failure.message


@given(st.text(alphabet=st.characters(), max_size=100))
def test_texts_can_be_stored_anywhere(message: str) -> None:
    failure = describe(raised(ValueError(f"{message}\x00\ud800")))
    for text in (failure.message, failure.traceback or ""):
        text.encode()
        assert "\x00" not in text


@given(st.integers(0, 200_000))
def test_texts_are_bounded(length: int) -> None:
    failure = describe(raised(ValueError("x" * length)))
    assert len(failure.message) <= failures.MESSAGE_LENGTH + 100
    assert len(failure.traceback or "") <= failures.TRACEBACK_LENGTH + 100


@given(st.integers(0, 30))
def test_the_history_keeps_the_last_failures_the_oldest_first(count: int) -> None:
    history = None
    for attempt in range(1, count + 1):
        at = NOW + timedelta(seconds=attempt)
        history = append_failure(history, Failure("builtins.ValueError", f"{attempt}"), attempt=attempt, at=at)
    attempts = [entry["attempt"] for entry in read_failures(history)]
    assert attempts == list(range(1, count + 1))[-failures.HISTORY_LENGTH :]


def test_an_entry_holds_when_what_and_where() -> None:
    history = append_failure(None, Failure("builtins.OSError", "gone", "Traceback"), attempt=3, at=NOW)
    assert json.loads(history) == [
        {"attempt": 3, "at": "2030-01-01T00:00:00+00:00", "type": "builtins.OSError", "message": "gone",
         "traceback": "Traceback"}
    ]  # fmt: skip


@pytest.mark.parametrize("errors", ["", "{", "{}", "null", "3"])
def test_a_history_that_cannot_be_read_starts_anew(errors: str) -> None:
    history = append_failure(errors, Failure("builtins.OSError", "gone"), attempt=1, at=NOW)
    assert len(json.loads(history)) == 1
