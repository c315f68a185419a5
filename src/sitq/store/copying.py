"""Whole records in bulk: read page by page, and written beside or over what a database has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, Table, bindparam, delete, func, insert, select, update

from ..models import Models, StoreModels
from ..records import RESULT_COLUMNS, TASK_COLUMNS, Plan, Record, plan
from .door import Door, connection_of
from .inserting import insert_in_bulk
from .results import delete_results
from .tables import is_running, portions, table_of
from .unique import find_holders

PAGE_BYTES = 8 * 2**20
"""After about so many bytes a page ends, however few its records are."""

ROWS_A_FETCH = 100

_TASK_WIDTH = len(TASK_COLUMNS)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of records that were to be written.

    Attributes:
        plan: what was done, but for those that are ``held``.
        held: records that were not written, since another unfinished task bears their unique key; its id.
    """

    plan: Plan
    held: list[tuple[Record, str]]

    def followed_by(self, again: Written) -> Written:
        """What became of all, when those that were held have been tried once more."""
        return Written(self.plan.joined(again.plan), again.held)


def count_records(session: Door, models: Models) -> int:
    """How many tasks there are."""
    return session.execute(select(func.count()).select_from(table_of(models.task))).scalar_one()


def first_running(session: Door, models: Models) -> str | None:
    """The id of a running task, if there is one."""
    task = models.task
    return session.execute(select(task.id).where(is_running(task)).limit(1)).scalar()


def read_page(session: Door, models: Models, after: str | None, limit: int) -> list[Record]:
    """The records after this id, at most ``limit`` of them, and fewer where they are large."""
    statement, values = page_statement(models, after is None), {"after": after, "most": limit}
    rows = session.execute(statement, values, execution_options={"yield_per": ROWS_A_FETCH})
    page: list[Record] = []
    size = 0
    for row in rows:
        page.append(as_record(row))
        size += page[-1].size
        if size >= PAGE_BYTES:
            rows.close()
            break
    return page


def read_records(session: Door, models: Models, task_ids: Sequence[str]) -> list[Record]:
    """The records of these tasks, as far as they exist."""
    if not task_ids:
        return []
    # All between the first id and the last is cheaper than a list of ids, unless much else is between them.
    most, wanted = 2 * len(task_ids), set(task_ids)
    values = {"first": min(wanted), "last": max(wanted), "most": most}
    rows = session.execute(range_statement(models), values).all()
    if len(rows) == most:
        return find_records(session, models, task_ids, lock=False)
    return [record for record in map(as_record, rows) if record.id in wanted]


def find_records(session: Door, models: Models, task_ids: Sequence[str], *, lock: bool) -> list[Record]:
    """The records of these tasks, asked for one by one; locked, they stay as they are until the commit."""
    statement = records_statement(models, lock)
    found: list[Record] = []
    for some in portions(task_ids):
        found += map(as_record, session.execute(statement, {"ids": some}))
    return found


def write_records(session: Door, models: StoreModels, records: Sequence[Record]) -> Written:
    """Insert records, and bring up to date what is not as far in its life; say what became of each."""
    planned, held = without_held(session, models, plan_for(session, models, records))
    release_keys(session, models, planned)
    update_tasks(session, models, [record for record, _ in planned.changed])
    insert_rows(session, models, models.task, TASK_COLUMNS, [record.task for record in planned.new])
    results = [record.result for record in (*planned.new, *changed_to(planned)) if record.result is not None]
    delete_results(session, models, [before.id for _, before in planned.changed if before.result is not None])
    insert_rows(session, models, models.result, RESULT_COLUMNS, results)
    return Written(planned, held)


def table_names(session: Door, models: Models) -> list[str]:
    """The names of the tables of tasks, of results and of queues, quoted. Nothing is sent to the database."""
    quoted = connection_of(session).dialect.identifier_preparer
    return [quoted.format_table(table_of(model)) for model in (models.task, models.result, models.queue_state)]


def delete_everything(session: Door, models: Models) -> None:
    """Delete every row of every table."""
    for model in (models.result, models.task, models.queue_state):
        session.execute(delete(table_of(model)))


def paused_states(session: Door, models: Models) -> list[tuple[str, datetime]]:
    """The names of the paused queues, and since when they are."""
    state = models.queue_state
    rows = session.execute(select(state.name, state.paused_at).where(state.paused_at.is_not(None)))
    return [(name, paused_at) for name, paused_at in rows if paused_at is not None]


def add_paused(session: Door, models: StoreModels, states: Sequence[tuple[str, datetime]]) -> int:
    """Pause queues of which nothing is known; return how many. One that was resumed stays as it is."""
    state = table_of(models.queue_state)
    known = set(session.execute(select(state.c.name)).scalars())
    values = [{"name": name, "paused_at": paused_at} for name, paused_at in states if name not in known]
    if values:
        session.execute(insert(state), values)
    return len(values)


# The steps of writing.


def plan_for(session: Door, models: Models, records: Sequence[Record]) -> Plan:
    """What is to become of records. Tasks that are to be changed are locked, and looked at again."""
    seen = read_records(session, models, [record.id for record in records])
    planned = plan(records, {found.id: found for found in seen})
    if not planned.changed:
        return planned
    changing = list(changed_to(planned))
    locked = find_records(session, models, [record.id for record in changing], lock=True)
    again = plan(changing, {found.id: found for found in locked})
    return Plan(planned.new, [], planned.same, planned.kept).joined(again)


def without_held(session: Door, models: Models, planned: Plan) -> tuple[Plan, list[tuple[Record, str]]]:
    """Take out the records whose unique key an unfinished task has that this plan leaves as it is."""
    leaving = {before.id for _, before in planned.changed}
    keys = {record.unique_key for record in (*planned.new, *changed_to(planned)) if record.unique_key is not None}
    holders = {key: row.id for key, row in find_holders(session, models, keys).items()} if keys else {}
    holder_of = {key: holder for key, holder in holders.items() if holder not in leaving}

    def is_free(record: Record) -> bool:
        return record.unique_key is None or record.unique_key not in holder_of

    wanted = [*planned.new, *changed_to(planned)]
    held = [(record, holder_of[record.unique_key or ""]) for record in wanted if not is_free(record)]
    new = [record for record in planned.new if is_free(record)]
    changed = [(record, before) for record, before in planned.changed if is_free(record)]
    return Plan(new, changed, planned.same, planned.kept), held


def changed_to(planned: Plan) -> Iterator[Record]:
    """What the changed records become."""
    return (record for record, _ in planned.changed)


def release_keys(session: Door, models: Models, planned: Plan) -> None:
    """Let the changed tasks hold no key, so that one may take another's."""
    task = table_of(models.task)
    for some in portions([before.id for _, before in planned.changed if before.unique_key is not None]):
        session.execute(update(task).where(task.c.id.in_(some)).values(unique_key=None))


def update_tasks(session: Door, models: Models, records: Sequence[Record]) -> None:
    """Write every column of tasks that are there."""
    if not records:
        return
    task = table_of(models.task)
    values = [dict(zip(TASK_COLUMNS, record.task, strict=True)) | {"of_task": record.id} for record in records]
    columns: dict[str, Any] = {name: bindparam(name) for name in TASK_COLUMNS if name != "id"}
    connection_of(session).execute(update(task).where(task.c.id == bindparam("of_task")).values(columns), values)


def insert_rows(
    session: Door, models: StoreModels, model: Any, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows, the way that is fastest on this database."""
    if not rows:
        return
    if not insert_in_bulk(session, models, model, columns, rows):
        values: Iterable[dict[str, Any]] = (dict(zip(columns, row, strict=True)) for row in rows)
        connection_of(session).execute(insert(table_of(model)), list(values))


# The statements.


def as_record(row: Row[Any]) -> Record:
    """A row of both tables as a record."""
    values = tuple(row)
    return Record(values[:_TASK_WIDTH], None if values[_TASK_WIDTH] is None else values[_TASK_WIDTH:])


def both_tables(models: Models) -> tuple[Table, Select[Any]]:
    """Tasks with their results: one statement, so that both are of one moment on every database."""
    task, result = table_of(models.task), table_of(models.result)
    columns = [*(task.c[name] for name in TASK_COLUMNS), *(result.c[name] for name in RESULT_COLUMNS)]
    return task, select(*columns).select_from(task.outerjoin(result, result.c.task_id == task.c.id))


@lru_cache
def page_statement(models: Models, is_first: bool) -> Select[Any]:
    """A page of records in the order of their ids."""
    task, records = both_tables(models)
    page = records.order_by(task.c.id).limit(bindparam("most"))
    return page if is_first else page.where(task.c.id > bindparam("after"))


@lru_cache
def range_statement(models: Models) -> Select[Any]:
    """The first records between two ids, both included."""
    task, records = both_tables(models)
    between = records.where(task.c.id >= bindparam("first"), task.c.id <= bindparam("last"))
    return between.order_by(task.c.id).limit(bindparam("most"))


@lru_cache
def records_statement(models: Models, lock: bool) -> Select[Any]:
    """The records of some ids."""
    task, records = both_tables(models)
    some = records.where(task.c.id.in_(bindparam("ids", expanding=True)))
    return some.with_for_update(of=task) if lock else some
