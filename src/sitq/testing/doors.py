"""One way to call a backend's verbs, and two doors behind it: the sync verbs and their async twins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from ..backends.base import BaseBackend

AT_ONCE = 8
"""How many threads or coroutines call a verb together."""


class Door(Protocol):
    """A backend whose verbs are called as ``door.get_task(task_id)``, whichever door it is."""

    backend: BaseBackend

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        """Return a function that calls this verb and gives what it returns."""

    def together(self, verb: str, arguments: Sequence[Any]) -> list[Any]:
        """Call a verb once for each argument, all at the same time."""

    def close(self) -> None:
        """Close the backend, and what the door needed."""


class SyncDoor:
    """The verbs themselves."""

    def __init__(self, backend: BaseBackend) -> None:
        self.backend = backend

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.backend, verb)
        return found

    def together(self, verb: str, arguments: Sequence[Any]) -> list[Any]:
        """Call a verb on threads."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(getattr(self.backend, verb), arguments))

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()


class AsyncDoor:
    """The async twins, all on one event loop."""

    def __init__(self, backend: BaseBackend) -> None:
        self.backend = backend
        self._runner = asyncio.Runner()

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        twin = getattr(self.backend, "a" + verb)
        return lambda *args, **kwargs: self._runner.run(twin(*args, **kwargs))

    def together(self, verb: str, arguments: Sequence[Any]) -> list[Any]:
        """Call a verb's twin in coroutines."""
        twin = getattr(self.backend, "a" + verb)

        async def gather() -> list[Any]:
            return await asyncio.gather(*(twin(argument) for argument in arguments))

        return self._runner.run(gather())

    def close(self) -> None:
        """Close the backend, then the loop."""
        try:
            self._runner.run(self.backend.aclose())
        finally:
            self._runner.close()


class ContractCase:
    """What every part of the contract starts from: a new backend behind each door."""

    finds_stored_tasks = True
    checks_arguments = True
    keeps_after_close = True

    def make_backend(self, folder: Path) -> BaseBackend:
        """Return a new and empty backend; ``folder`` is empty too, and the test's own."""
        raise NotImplementedError(f"{type(self).__name__} has no make_backend")

    @pytest.fixture(params=[SyncDoor, AsyncDoor], ids=["sync", "async"])
    def door(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
        """The backend to test."""
        door: Door = request.param(self.make_backend(tmp_path))
        yield door
        door.close()

    @pytest.fixture
    def finds_stored(self) -> None:
        """Skip the test for a backend that knows only the tasks enqueued through it."""
        if not self.finds_stored_tasks:
            pytest.skip("this backend does not find tasks that were not enqueued through it")

    @pytest.fixture
    def checks(self) -> None:
        """Skip the test for a backend that takes any argument."""
        if not self.checks_arguments:
            pytest.skip("this backend does not check ids and statuses")
