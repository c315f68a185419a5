from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.exceptions import ConfigurationError
from sitq.retry import DEFAULT_RULE, LONGEST_DELAY, RetryPolicy, RetryRule, next_attempt, read_rule, wait_before_retry

NOW = datetime(2030, 1, 1, tzinfo=UTC)

shares = st.floats(0, 1, exclude_max=True)
counts = st.integers(0, 5_000)
delays = st.floats(0, LONGEST_DELAY)
policies = st.builds(RetryPolicy, delay=delays, backoff=st.floats(1, 1e6), max_delay=delays, jitter=st.floats(0, 1))


@given(policies, counts, counts, shares)
def test_a_failure_is_retried_exactly_max_retries_times(
    policy: RetryPolicy, retry_count: int, max_retries: int, share: float
) -> None:
    rule = RetryRule(policy=policy)
    due_at = next_attempt(rule, now=NOW, retry_count=retry_count, max_retries=max_retries, random=lambda: share)
    assert (due_at is not None) == (retry_count < max_retries)


@given(policies, counts, shares)
def test_the_wait_is_never_negative_and_never_above_the_cap(
    policy: RetryPolicy, retry_count: int, share: float
) -> None:
    wait = wait_before_retry(policy, retry_count=retry_count, random=lambda: share)
    assert 0 <= wait <= policy.max_delay


@given(policies, counts)
def test_without_luck_waits_never_get_shorter(policy: RetryPolicy, retry_count: int) -> None:
    first = wait_before_retry(policy, retry_count=retry_count, random=lambda: 0.0)
    assert wait_before_retry(policy, retry_count=retry_count + 1, random=lambda: 0.0) >= first


@given(policies, counts, shares)
def test_jitter_takes_off_at_most_its_share(policy: RetryPolicy, retry_count: int, share: float) -> None:
    full = wait_before_retry(policy, retry_count=retry_count, random=lambda: 0.0)
    wait = wait_before_retry(policy, retry_count=retry_count, random=lambda: share)
    assert full * (1 - policy.jitter) <= wait + 1e-9
    assert wait <= full


def test_waits_double_up_to_the_cap() -> None:
    policy = RetryPolicy(delay=2, max_delay=10, jitter=0)
    waits = [wait_before_retry(policy, retry_count=count, random=lambda: 0.5) for count in range(5)]
    assert waits == [2, 4, 8, 10, 10]


def test_the_next_attempt_counts_from_now() -> None:
    rule = RetryRule(policy=RetryPolicy(delay=60, jitter=0))
    due_at = next_attempt(rule, now=NOW, retry_count=0, max_retries=1, random=lambda: 0.0)
    assert due_at == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)


names = st.sampled_from(["builtins.Exception", "builtins.OSError", "builtins.ValueError", "shop.Declined"])
name_sets = st.frozensets(names)
rules = st.builds(RetryRule, policy=policies, retry_on=st.none() | name_sets, give_up_on=name_sets)
answers = st.none() | st.booleans() | st.floats(0, LONGEST_DELAY)


@given(rules, counts, counts, shares, name_sets, answers)
def test_whatever_rule_and_answer_say_retries_are_limited_and_never_in_the_past(
    rule: RetryRule,
    retry_count: int,
    max_retries: int,
    share: float,
    kinds: frozenset[str],
    answer: bool | float | None,
) -> None:
    due_at = next_attempt(
        rule,
        now=NOW,
        retry_count=retry_count,
        max_retries=max_retries,
        random=lambda: share,
        kinds=kinds,
        answer=answer,
    )
    assert due_at is None or due_at >= NOW
    if retry_count >= max_retries or answer is False:
        assert due_at is None
    elif answer is not None:
        assert due_at is not None
    else:
        assert (due_at is not None) == rule.covers(kinds)


@given(rules, name_sets)
def test_what_is_given_up_on_is_never_covered_and_no_list_covers_the_rest(
    rule: RetryRule, kinds: frozenset[str]
) -> None:
    if kinds & rule.give_up_on:
        assert not rule.covers(kinds)
    else:
        assert rule.covers(kinds) == (rule.retry_on is None or bool(kinds & rule.retry_on))


@given(shares)
def test_an_answer_in_seconds_is_kept_to_the_second(share: float) -> None:
    due_at = next_attempt(
        DEFAULT_RULE, now=NOW, retry_count=0, max_retries=1, random=lambda: share, kinds=(), answer=90.0
    )
    assert due_at == datetime(2030, 1, 1, 0, 1, 30, tzinfo=UTC)


def test_a_stored_rule_is_read_back() -> None:
    rule = read_rule(
        '{"retry_delay": 5, "retry_backoff": 3, "retry_max_delay": 60, "retry_jitter": 0, "retry_on": ["a.B"],'
        ' "give_up_on": ["c.D"], "something": "else"}'
    )
    assert rule.policy == RetryPolicy(delay=5, backoff=3, max_delay=60, jitter=0)
    assert (rule.retry_on, rule.give_up_on) == ({"a.B"}, {"c.D"})


@pytest.mark.parametrize("stored", [None, "", "{}", "no JSON", "[1]", '{"retry_delay": -1}', '{"retry_on": 5}', "null"])
def test_a_rule_that_cannot_be_read_is_the_default(stored: str | None) -> None:
    assert read_rule(stored) == DEFAULT_RULE


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": True},
        {"backoff": 0.5},
        {"backoff": float("inf")},
        {"max_delay": LONGEST_DELAY * 2},
        {"jitter": 1.5},
        {"jitter": "much"},
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    [(option, value)] = wrong.items()
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**wrong)
    assert option in str(caught.value)
    assert repr(value) in str(caught.value)
