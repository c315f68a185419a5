"""The backend over SQLAlchemy: each verb is one line that takes a store function through a door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Self, Unpack

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from .. import store
from ..access import NO_CONTROL, Access
from ..claims import Claim, ClaimRequest, Outcome, TaskRow, Token
from ..database import Database
from ..declaring import choose_models
from ..dialect import Dialect
from ..models import Models, Result, Task, TaskStatus
from ..options import check_bool
from ..presence import Presence
from ..stats import Stats, stats_of
from ..wakeups import RESULTS, Wakeups, queue_topic
from .dialects import checked_source, dialect_for
from .engine_options import EngineOptions
from .guarding import guarded
from .sources import DatabaseAddress
from .sql_transactions import TransactionalBackend


@guarded
class SQLAlchemyBackend(TransactionalBackend):
    """A backend in a database that SQLAlchemy reaches. Each kind of database has a subclass with its options.

    Safe to share between queues, workers, threads and event loops; a forked child begins anew. With only one
    kind of driver at hand both doors work: a sync driver serves the async verbs from threads, an async driver
    serves the sync verbs on an event loop in a thread of its own.

    Args:
        database: a URL, with a sync or an async driver, an ``Engine`` or an ``AsyncEngine``. An engine is
            borrowed: it is never disposed.
        auto_upgrade: upgrade an older schema when the database is opened.
        models: what ``declare_models`` returned, if your app owns the tables; then they are never altered.
        options: see ``EngineOptions``.

    Raises:
        ConfigurationError: a value is not allowed; the message names option, value and what is.
        NotAvailableError: the URL's driver is not installed.
    """

    def __init__(
        self,
        database: DatabaseAddress,
        *,
        auto_upgrade: bool = True,
        models: Models | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        source = checked_source(database, options)
        self.use(
            dialect_for(source), target=source.target, auto_upgrade=auto_upgrade, models=models, schema=source.schema
        )

    def use(
        self,
        dialect: Dialect,
        *,
        target: str,
        auto_upgrade: bool,
        models: Models | None = None,
        access: Access = NO_CONTROL,
        schema: str | None = None,
    ) -> None:
        """What every constructor ends with."""
        self.access = access
        self.models: Models = choose_models(models, schema)
        self.rounds_overlap = dialect.rounds_overlap
        self._database = Database(
            dialect, self.models, auto_upgrade=check_bool("auto_upgrade", auto_upgrade), target=target
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._database.target!r})"

    def now(self) -> datetime:
        return self._database.now()

    def use_clock(self, clock: Callable[[], datetime] | None) -> None:
        self._database.use_clock(clock)

    @property
    def engine(self) -> Engine:
        """The sync engine, for statements of your own. It opens its connections when they are asked for."""
        return self._database.engine

    @property
    def async_engine(self) -> AsyncEngine:
        """The async engine of the running event loop, for statements of your own."""
        return self._database.async_engine

    @property
    def wakeups(self) -> Wakeups:
        """What wakes workers and waiters in this process."""
        return self._database.wakeups

    # The documented verbs.

    def initialize(self) -> None:
        """Open the database and make or upgrade its tables; the first use does so by itself."""
        self._database.open()

    async def ainitialize(self) -> None:
        await self._database.aopen()

    def store_task(self, task: Task) -> None:
        self._database.write(store.store_task, task, self.now())
        self.wakeups.notify([queue_topic(task.queue), RESULTS])

    async def astore_task(self, task: Task) -> None:
        await self._database.awrite(store.store_task, task, self.now())
        self.wakeups.notify([queue_topic(task.queue), RESULTS])

    def get_task(self, task_id: str) -> Task | None:
        return self._database.read(store.get_task, task_id)

    async def aget_task(self, task_id: str) -> Task | None:
        return await self._database.aread(store.get_task, task_id)

    def update_task_status(self, task_id: str, status: str) -> None:
        queue = self._database.write(store.update_task_status, task_id, TaskStatus.parse(status), self.now())
        self.wakeups.notify([queue_topic(queue), RESULTS])

    async def aupdate_task_status(self, task_id: str, status: str) -> None:
        queue = await self._database.awrite(store.update_task_status, task_id, TaskStatus.parse(status), self.now())
        self.wakeups.notify([queue_topic(queue), RESULTS])

    def store_result(self, task_id: str, result: Result) -> None:
        self._database.write(store.store_result, task_id, result, self.now())
        self.wakeups.notify([RESULTS])

    async def astore_result(self, task_id: str, result: Result) -> None:
        await self._database.awrite(store.store_result, task_id, result, self.now())
        self.wakeups.notify([RESULTS])

    def get_result(self, task_id: str) -> Result | None:
        return self._database.read(store.get_result, task_id)

    async def aget_result(self, task_id: str) -> Result | None:
        return await self._database.aread(store.get_result, task_id)

    def has_result(self, task_id: str) -> bool:
        return self._database.look(store.has_result, task_id)

    async def ahas_result(self, task_id: str) -> bool:
        return await self._database.alook(store.has_result, task_id)

    def list_all_tasks(self) -> list[str]:
        """Return the id of every task, the oldest first. No payload is read."""
        return self._database.read(store.list_all_tasks)

    async def alist_all_tasks(self) -> list[str]:
        return await self._database.aread(store.list_all_tasks)

    def get_stats(self) -> Stats:
        """Count the tasks by queue and status: about a tenth of a second for a million, once they are in memory."""
        return stats_of(self._database.read(store.count_tasks, self.now()))

    async def aget_stats(self) -> Stats:
        return stats_of(await self._database.aread(store.count_tasks, self.now()))

    # What a queue needs.

    def enqueue(self, rows: Sequence[TaskRow]) -> list[str]:
        rows = store.with_scheduled(rows, self.now)
        ids = self._database.write_rows(store.enqueue, rows, alone=store.is_one_statement(rows))
        self.wakeups.notify(queue_topics(rows))
        return ids

    async def aenqueue(self, rows: Sequence[TaskRow]) -> list[str]:
        rows = store.with_scheduled(rows, self.now)
        ids = await self._database.awrite_rows(store.enqueue, rows, alone=store.is_one_statement(rows))
        self.wakeups.notify(queue_topics(rows))
        return ids

    def get_statuses(self, task_ids: Sequence[str]) -> Mapping[str, TaskStatus]:
        return self._database.look(store.get_statuses, task_ids)

    async def aget_statuses(self, task_ids: Sequence[str]) -> Mapping[str, TaskStatus]:
        return await self._database.alook(store.get_statuses, task_ids)

    def list_tasks(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        return self._database.read(store.list_tasks, status, queue, name, limit)

    async def alist_tasks(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        return await self._database.aread(store.list_tasks, status, queue, name, limit)

    def pause_queue(self, queue: str) -> None:
        self._database.write(store.pause_queue, queue, self.now())

    async def apause_queue(self, queue: str) -> None:
        await self._database.awrite(store.pause_queue, queue, self.now())

    def resume_queue(self, queue: str) -> None:
        self._database.write(store.resume_queue, queue)
        self.wakeups.notify([queue_topic(queue)])

    async def aresume_queue(self, queue: str) -> None:
        await self._database.awrite(store.resume_queue, queue)
        self.wakeups.notify([queue_topic(queue)])

    def paused_queues(self) -> list[str]:
        return self._database.read(store.paused_queues)

    async def apaused_queues(self) -> list[str]:
        return await self._database.aread(store.paused_queues)

    # What a worker needs.

    def claim(self, request: ClaimRequest) -> list[Claim]:
        return self._database.write(store.claim, request, self.now())

    async def aclaim(self, request: ClaimRequest) -> list[Claim]:
        return await self._database.awrite(store.claim, request, self.now())

    def finish(self, outcomes: Sequence[Outcome]) -> list[bool]:
        held = self._database.write_rows(store.finish, outcomes)
        self.wakeups.notify([RESULTS])
        return held

    async def afinish(self, outcomes: Sequence[Outcome]) -> list[bool]:
        held = await self._database.awrite_rows(store.finish, outcomes)
        self.wakeups.notify([RESULTS])
        return held

    def finish_and_claim(
        self, outcomes: Sequence[Outcome], request: ClaimRequest | None
    ) -> tuple[list[bool], list[Claim]]:
        answer = self._database.write(store.finish_and_claim, outcomes, request, self.now())
        if outcomes:
            self.wakeups.notify([RESULTS])
        return answer

    async def afinish_and_claim(
        self, outcomes: Sequence[Outcome], request: ClaimRequest | None
    ) -> tuple[list[bool], list[Claim]]:
        if request is not None and store.is_round_alone(self._database.models, outcomes, request):
            return await self._around_alone(outcomes, request)
        answer = await self._database.awrite(store.finish_and_claim, outcomes, request, self.now())
        if outcomes:
            self.wakeups.notify([RESULTS])
        return answer

    async def _around_alone(self, outcomes: Sequence[Outcome], request: ClaimRequest) -> tuple[list[bool], list[Claim]]:
        now = self.now()
        [did] = await self._database.awrite_rows(store.rounds_alone, [(outcomes, request, now)], alone=True)
        if did.unwanted:
            await self._database.awrite(store.only_wanted, did.unwanted, now)
        if outcomes or did.unwanted:
            self.wakeups.notify([RESULTS])
        held = [True] * did.changed
        if did.changed != len(outcomes):
            held = await self._database.alook(store.were_ours, outcomes)
        return held, await self._database.awrite(store.claim, request, now) if did.look_closer else did.claims

    def extend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        return self._database.write(store.extend, tokens, self.now() + timedelta(seconds=lease))

    async def aextend(self, tokens: Sequence[Token], lease: float) -> list[bool]:
        return await self._database.awrite(store.extend, tokens, self.now() + timedelta(seconds=lease))

    def reap(self) -> list[str]:
        return self._tell_of(self._database.write(store.reap, self.now()))

    async def areap(self) -> list[str]:
        return self._tell_of(await self._database.awrite(store.reap, self.now()))

    def reap_workers(self, worker_ids: Sequence[str]) -> list[str]:
        return self._tell_of(self._database.write(store.reap_workers, worker_ids, self.now()))

    async def areap_workers(self, worker_ids: Sequence[str]) -> list[str]:
        return self._tell_of(await self._database.awrite(store.reap_workers, worker_ids, self.now()))

    def _tell_of(self, reaped: dict[str, str]) -> list[str]:
        self.wakeups.notify({RESULTS, *(queue_topic(queue) for queue in reaped.values())} if reaped else ())
        return list(reaped)

    def presence(self, worker_id: str) -> Presence:
        self._database.require_writable()  # else its worker would try for ever
        return self._database.dialect.presence(worker_id)

    def isolated_waiting(self, queues: Sequence[str]) -> bool:
        return self._database.look(store.isolated_waiting, queues, self.now())

    async def aisolated_waiting(self, queues: Sequence[str]) -> bool:
        return await self._database.alook(store.isolated_waiting, queues, self.now())

    def next_due_at(self, queues: Sequence[str]) -> datetime | None:
        return self._database.look(store.next_due_at)

    async def anext_due_at(self, queues: Sequence[str]) -> datetime | None:
        return await self._database.alook(store.next_due_at)

    # Opening and closing.

    def close(self) -> None:
        """Commit what waits and close every connection. The next use opens again."""
        self._database.close()

    async def aclose(self) -> None:
        await self._database.aclose()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    async def __aenter__(self) -> Self:
        await self.ainitialize()
        return self


def queue_topics(rows: Sequence[TaskRow]) -> set[str]:
    """The topics of the queues that these rows are in."""
    return {queue_topic(queue) for queue in {row.get("queue", "default") for row in rows}}
