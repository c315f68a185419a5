"""Ids sort in the order in which they were made, and no two are equal, whoever makes them."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid

import pytest

from sitq import ids
from sitq.ids import new_id, new_ids


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = [new_id() for _ in range(1_000)]
    parsed = [uuid.UUID(text) for text in made]
    assert [str(one) for one in parsed] == made
    assert {one.version for one in parsed} == {7}
    assert {one.variant for one in parsed} == {uuid.RFC_4122}


def test_an_id_tells_its_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_sort_as_text_in_the_order_of_making() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ids_sort_also_when_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.time_ns() + 3_600 * 10**9
    readings = iter([start, start, start - 10**12, start - 1, start + 10**9])
    monkeypatch.setattr(ids, "_source", ids._IdSource())
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(readings))
    made = [new_id() for _ in range(5)]
    assert made == sorted(set(made))


def test_more_ids_than_ticks_in_a_millisecond_carry_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_source", ids._IdSource())
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    made = [new_id() for _ in range(5_000)]
    assert made == sorted(set(made))
    assert {uuid.UUID(text).version for text in made} == {7}


def test_many_ids_sort_between_those_made_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_source", ids._IdSource())
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    made = [new_id(), *new_ids(5_000), new_id(), *new_ids(3), new_id()]
    assert made == sorted(set(made))
    assert {uuid.UUID(text).version for text in made} == {7}


def test_threads_never_make_the_same_id() -> None:
    per_thread: list[list[str]] = []
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait()
        per_thread.append([new_id() for _ in range(3_000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [text for made in per_thread for text in made]
    assert all(made == sorted(made) for made in per_thread)
    # The sortable half alone is unique already.
    assert len({text[:18] for text in every}) == 24_000


def test_seeding_the_shared_random_numbers_does_not_repeat_ids() -> None:
    tails = []
    for _ in range(2):
        random.seed(1)
        tails.append(new_id()[19:])
    assert tails[0] != tails[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "\n".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writer)
    tails = {new_id()[19:] for _ in range(100)}
    with os.fdopen(reader) as stream:
        child_tails = {line[19:] for line in stream.read().split("\n")}
    assert os.waitpid(child, 0)[1] == 0
    assert len(child_tails) == 100
    assert not child_tails & tails


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_makes_an_id_leaves_no_lock_behind() -> None:
    with ids._source._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if new_id() else 1)
    assert os.waitpid(child, 0)[1] == 0
