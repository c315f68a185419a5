"""What a type checker makes of calls to a queue: right ones pass, and each wrong one is an error."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

PROGRAM = """
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import assert_type

from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import sitq
from sitq import Result, SyncTaskQueue, Task, TaskQueue

def add(x: int, y: int = 0) -> int: return x + y
async def mail(user: str, *, urgent: bool = False) -> None: ...

@sitq.task
def plain(x: int) -> str: return str(x)

def ask(failure: sitq.FailedAttempt) -> bool | float: return failure.attempt < 3
def key(x: int) -> str: return f"k{x}"

@sitq.task(priority=5, max_retries=3, delay=timedelta(minutes=1), queue="mail", timeout=3,
           retry_on=(OSError, ValueError), give_up_on=KeyError, retry=ask, unique_key=key, on_conflict="replace")
async def decorated(x: int) -> str: return str(x)

@sitq.task(transactional=True)
def ship(order: int, *, session: Session = sitq.injected) -> str: return str(order)

@sitq.task(transactional=True, max_retries=5)
async def ship_later(order: int, session: AsyncSession = sitq.injected) -> str: return str(order)

class Shop:
    @sitq.task(priority=1)
    def close(self, at: int) -> bool: return True

    @sitq.task
    async def open(self) -> bool: return True

assert_type(plain(1), str)
assert_type(Shop().close(1), bool)
plain("1")  # E: arg-type
Shop().close("1")  # E: arg-type

async def on_a_loop(queue: TaskQueue) -> None:
    assert_type(await decorated(1), str)
    assert_type(await Shop().open(), bool)
    assert_type(await queue.enqueue(add, 1, y=2), str)
    await queue.enqueue(mail, "ada", urgent=True)
    await queue.enqueue(Shop().close, 1)
    await queue.enqueue(decorated, 1)
    await queue.enqueue(partial(add, 1), 2)
    await queue.enqueue(add, "1")  # E: arg-type
    await queue.enqueue(add)  # E: call-arg
    await queue.enqueue(add, 1, 2, 3)  # E: call-arg
    await queue.enqueue(add, 1, z=2)  # E: call-arg
    await queue.enqueue(mail, "ada", urgent="very")  # E: arg-type
    await queue.enqueue(decorated, "1")  # E: arg-type
    await queue.enqueue(5)  # E: arg-type
    await queue.enqueue(add, 1, priority=5)  # E: call-arg

    soon = queue.options(priority=5, eta=datetime.now(UTC), queue="mail", max_retries=1, timeout=2.5)
    assert_type(await soon.enqueue(add, 1), str)
    await queue.options(delay=30).options(delay=timedelta(minutes=5)).enqueue(mail, "ada")
    assert_type(await queue.enqueue(ship, 1), str)
    assert_type(await soon.enqueue(ship_later, order=1), str)
    await queue.enqueue(ship, "1")  # E: arg-type
    await queue.enqueue(ship_later)  # E: call-arg
    await soon.enqueue(add, "1")  # E: arg-type
    await soon.enqueue(mail, 1)  # E: arg-type
    queue.options(priority="high")  # E: arg-type
    queue.options(prio=5)  # E: call-arg
    queue.options(retry_on=5)  # E: arg-type
    queue.options(on_conflict="merge")  # E: arg-type
    queue.options(retry=ask)  # E: call-arg
    queue.options(unique_key="k", expires_in=5, retry_jitter=0, retry_delay=timedelta(1))
    assert_type(await queue.cancel("id", "why"), sitq.CancelResult)
    assert_type(await queue.cancel(["id"]), dict[str, sitq.CancelResult])
    assert_type(await queue.retry("id"), sitq.RetryResult)
    assert_type(await queue.retry({"id"}), dict[str, sitq.RetryResult])
    assert_type(await queue.purge(older_than=timedelta(days=7), status=["failed"]), int)
    await queue.purge(older_than=5, status="queued")  # E: arg-type
    assert_type(sitq.current_task(), sitq.CurrentTask)
    assert_type(sitq.current_task().cancelled, bool)

    assert_type(await soon.enqueue_many(add, [(1,), {"x": 1}]), list[str])
    await queue.enqueue_many(add, ((number,) for number in range(3)))
    await queue.enqueue_many(add, [1, 2])  # E: list-item

    assert_type(await queue.get_task("id"), Task)
    assert_type(await queue.list(status="queued", limit=3), list[Task])
    assert_type(await queue.get_result("id", timeout=timedelta(seconds=1)), Result | None)
    async for result in queue.as_completed(["id"], timeout=3):
        assert_type(result, Result)
    assert_type(await queue.paused(), list[str])

async def in_one_commit(queue: TaskQueue, session: AsyncSession, connection: AsyncConnection) -> None:
    assert_type(queue.enqueue_in(session, add, 1, y=2), str)
    assert_type(queue.options(priority=1).enqueue_in(session, decorated, 1), str)
    assert_type(queue.enqueue_many_in(session, add, [(1,), {"x": 1}]), list[str])
    assert_type(await queue.aenqueue_in(session, add, 1), str)
    assert_type(await queue.options(priority=1).aenqueue_many_in(connection, add, [(1,)]), list[str])
    assert_type(await connection.run_sync(lambda sync: queue.enqueue_in(sync, add, 1)), str)
    queue.enqueue_in(session, add, "1")  # E: arg-type
    queue.enqueue_in(session, add, z=1)  # E: call-arg
    queue.enqueue_in("session", add, 1)  # E: arg-type
    await queue.aenqueue_in(session, add, "1")  # E: arg-type
    sitq.sqlite.configure(create_engine("sqlite://"), busy_timeout=5)
    assert_type(sitq.sqlite.configure(create_async_engine("sqlite+aiosqlite://")).dialect.name, str)

def in_one_commit_on_a_thread(queue: SyncTaskQueue, session: Session, connection: Connection) -> None:
    assert_type(queue.enqueue_in(session, add, 1, y=2), str)
    assert_type(queue.enqueue_in(connection, add, 1), str)
    assert_type(queue.options(queue="mail").enqueue_in(scoped_session(sessionmaker()), mail, "ada"), str)
    assert_type(queue.enqueue_many_in(connection, add, [(1,)]), list[str])
    queue.enqueue_in(session, add, "1")  # E: arg-type
    queue.aenqueue_in(session, add, 1)  # E: attr-defined

def on_a_thread(queue: SyncTaskQueue) -> None:
    assert_type(queue.enqueue(add, 1, y=2), str)
    assert_type(queue.options(priority=1).enqueue(mail, "ada"), str)
    assert_type(queue.enqueue_many(add, [(1,)]), list[str])
    queue.enqueue(add, "1")  # E: arg-type
    queue.options(priority=1).enqueue(add, "1")  # E: arg-type
    queue.options(queue=5)  # E: arg-type
    assert_type(queue.get_result("id"), Result | None)
    assert_type(queue.cancel("id"), sitq.CancelResult)
    assert_type(queue.retry(["id"]), dict[str, sitq.RetryResult])
    assert_type([result for result in queue.as_completed(["id"])], list[Result])

@sitq.task(prio=5)  # E: call-overload
def unknown() -> None: ...

@sitq.task(transactional="yes")  # E: call-overload
def certain(session: Session) -> None: ...

@sitq.task(eta=datetime.now(UTC))  # E: call-overload
def fixed() -> None: ...
"""


def test_a_type_checker_knows_what_fits_a_function(tmp_path: Path):
    api = pytest.importorskip("mypy.api", reason="types are checked where mypy is installed")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    output, errors, _ = api.run(["--strict", "--no-error-summary", str(program)])
    assert errors == ""
    found: dict[int, set[str]] = defaultdict(set)
    for number, code in re.findall(r"program\.py:(\d+): error: .*\[([\w-]+)\]", output):
        found[int(number)].add(code)
    wanted = {
        number: line.partition("# E: ")[2] for number, line in enumerate(PROGRAM.splitlines(), 1) if "# E" in line
    }
    assert list(found) == list(wanted), output
    for number, code in wanted.items():
        assert code in found[number], output
