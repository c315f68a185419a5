"""Opening, closing, the clock, and that no verb lacks its twin."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ..backends.base import BaseBackend
from .clock import MovableClock
from .doors import ContractCase, Door
from .records import full_result, new_row, request


class OpeningContract(ContractCase):
    """``initialize``, ``close``, ``now``, and the context managers."""

    def test_initializing_again_changes_nothing(self, door: Door) -> None:
        door.initialize()
        ids = door.enqueue([new_row()])
        door.initialize()
        assert door.list_all_tasks() == ids
        assert [claim.id for claim in door.claim(request())] == ids

    def test_a_backend_opens_again_after_closing(self, door: Door) -> None:
        door.enqueue([new_row()])
        door.backend.close()
        [task_id] = door.enqueue([new_row()])
        assert door.get_task(task_id).id == task_id

    def test_closing_twice_or_unopened_is_no_error(self, door: Door) -> None:
        for _ in range(2):
            door.backend.close()

    def test_what_was_stored_is_there_after_closing(self, door: Door) -> None:
        if not self.keeps_after_close:
            pytest.skip("this backend forgets what it held when it is closed")
        ids = door.enqueue([new_row(), new_row()])
        door.store_result(ids[0], full_result(ids[0]))
        door.pause_queue("emails")
        door.backend.close()
        assert door.list_all_tasks() == ids
        assert door.has_result(ids[0]) is True
        assert door.paused_queues() == ["emails"]
        assert [claim.id for claim in door.claim(request())] == ids

    def test_context_managers_open_and_close(self, tmp_path: Path) -> None:
        async def enter() -> None:
            async with self.make_backend(tmp_path) as backend:
                [task_id] = await backend.aenqueue([new_row()])
                assert await backend.aget_task(task_id) is not None

        asyncio.run(enter())
        with self.make_backend(tmp_path / "another") as backend:
            [task_id] = backend.enqueue([new_row()])
            assert backend.get_task(task_id) is not None

    def test_the_clock_is_aware_and_near_ours(self, door: Door) -> None:
        now = door.backend.now()
        assert now.utcoffset() == timedelta(0)
        assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)

    def test_a_clock_that_is_moved_decides_what_is_due_and_what_has_lapsed(self, door: Door) -> None:
        clock = MovableClock()
        door.backend.use_clock(clock)
        [task_id] = door.enqueue([new_row(due_at=clock() + timedelta(hours=1))])
        assert door.claim(request()) == []
        clock.move(timedelta(hours=1))
        [claim] = door.claim(request(lease=60.0))
        clock.move(59.0)
        assert door.reap() == []
        assert door.extend([claim.token], 60.0) == [True]
        clock.move(59.0)
        assert door.reap() == []
        clock.move(1.0)
        assert door.reap() == [task_id]
        clock.move(-1.0)
        assert door.backend.now() == clock()

    def test_without_that_clock_the_time_is_the_usual_one_again(self, door: Door) -> None:
        door.backend.use_clock(MovableClock(datetime(2000, 1, 1, tzinfo=UTC)))
        door.backend.use_clock(None)
        assert abs(door.backend.now() - datetime.now(UTC)) < timedelta(minutes=5)

    def test_every_verb_has_an_async_twin(self, door: Door) -> None:
        public = {name for name, value in vars(BaseBackend).items() if inspect.isfunction(value) and name[0] != "_"}
        of_this_process = {"now", "presence", "use_clock"}
        verbs = {name for name in public - of_this_process if name[1:] not in public}
        twins = {"a" + verb for verb in verbs}
        assert public - of_this_process == verbs | twins
        assert all(inspect.iscoroutinefunction(getattr(door.backend, twin)) for twin in twins)
