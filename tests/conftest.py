from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import URL

from databases import SERVERS, empty_database
from dict_backend import DictBackend
from server_contract import emptied
from sitq import BaseBackend, SQLAlchemyBackend, SQLiteBackend, open_backend


@pytest.fixture(params=["file", "memory", "dict", *SERVERS])
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, server_database: Callable[[str], URL]
) -> Iterator[BaseBackend]:
    """Every kind of backend, one after the other; skips the servers that are not there."""
    if request.param in SERVERS:
        made = open_backend(emptied(server_database(request.param)))
    else:
        made = make_backend(request.param, tmp_path)
    with made:
        yield made


def make_backend(kind: str, folder: Path) -> BaseBackend:
    if kind == "dict":
        return DictBackend({"option": "value"})
    return SQLiteBackend(":memory:" if kind == "memory" else folder / "tasks.db")


@pytest.fixture(scope="session")
def server_database() -> Iterator[Callable[[str], URL]]:
    """Gives a database on each kind of server, one for the whole session, with tables in it."""
    with ExitStack() as stack:

        @cache
        def database(kind: str) -> URL:
            url = stack.enter_context(empty_database(kind, Path()))
            with SQLAlchemyBackend(url) as backend:
                backend.initialize()
            return url

        yield database


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which kinds of database nothing was tested on."""
    skipped = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    for kind in SERVERS:
        tests = sum(f"NOT TESTED ON {kind}" in reason for reason in skipped)
        if tests:
            terminalreporter.write_line(f"NOT TESTED ON {kind}: {tests} tests were skipped", red=True, bold=True)
