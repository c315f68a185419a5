"""The pytest plugin of sitq: fixtures for the tests of an app. It imports nothing of sitq before one is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sitq.testing import AppTasks


@pytest.fixture
def sitq_queue() -> Iterator[Any]:
    """The queue under test, or its backend. Override it to give your app's; by default an empty one in memory."""
    from sitq import SQLiteBackend, TaskQueue

    with SQLiteBackend(":memory:") as backend:
        yield TaskQueue(backend)


@pytest.fixture
def sitq_session() -> Any:
    """The test's transaction. Override it to give your session or connection, which you roll back yourself."""
    return None


@pytest.fixture
def sitq_testing(sitq_queue: Any, sitq_session: Any) -> Iterator[AppTasks]:
    """The tasks of this test: see ``sitq.testing.AppTasks``."""
    from sitq.testing import AppTasks

    with AppTasks(sitq_queue, sitq_session) as tasks:
        yield tasks
