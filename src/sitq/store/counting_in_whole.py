"""How many tasks there are, where each index holds all of them: MariaDB and MySQL."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Boolean, ColumnElement, Select, String, bindparam, case, func, null, or_, select, union_all

from ..models import Models, StoreModels, TaskMixin, TaskStatus
from ..stats import TaskGroup
from .compiled import compiled_for
from .counting_parts import BY_HAND, NO_TIME, ZERO, asked_at, by_hand_if, count_where, is_timeless, overdue
from .door import Door, connection_of
from .tables import FALSE, QUEUED, TRUE, is_due, table_of

MOST_KINDS = 50
"""Among how many kinds the commonest is looked for, by a question each."""

COMMONNESS = 2.5
"""How many times as many as all others together the tasks of the commonest kind must seem to be to be left out.

To look at an entry in ranges costs the server three times as much as a bare ``count(*)`` does, and twice as much as
without ranges. It never estimates that a kind has more than half of all tasks.
"""


class Kind(NamedTuple):
    """What a task counts as."""

    status: str
    scheduled: bool
    queue: str

    def holding(self, tasks: int) -> TaskGroup:
        """So many tasks of this kind, as if the time of the scheduled ones were to come."""
        waits = self.status == TaskStatus.QUEUED
        return TaskGroup(self.queue, self.status, tasks, tasks if waits and self.scheduled else 0, 0, None)


def count_in_whole_indexes(session: Door, models: StoreModels, now: datetime) -> list[TaskGroup] | None:
    """The tasks by queue and status, in one statement. ``None`` if somebody wrote some by hand that it cannot tell.

    Most are counted by kind in the claim's index; of the others, seeks find what is rare. A kind that most tasks seem
    to be of is left out: it has what the others leave of a bare ``count(*)``, at which servers are fastest.
    """
    commonest = commonest_kind(session, models)
    values = {"now": now} if commonest is None else {"now": now, **commonest._asdict()}
    found = session.execute(count_by_kinds(models, commonest is not None), values).all()
    if any(doubt == BY_HAND for *_, doubt in found):
        return None
    groups = [TaskGroup(*group) for *group, _ in found if group[0] is not None]
    if commonest is not None:
        every = sum(tasks for queue, _, tasks, *_ in found if queue is None)
        groups.append(commonest.holding(every - sum(group.tasks for group in groups)))
    return [group for group in groups if any(group[2:])]


def commonest_kind(session: Door, models: StoreModels) -> Kind | None:
    """The kind that by the server's estimates has many more tasks than all others together."""
    found = session.execute(queues_and_statuses(models)).all()
    kinds = [Kind(status, scheduled, queue) for queue, status in found if status for scheduled in (False, True)]
    if not 0 < len(kinds) <= MOST_KINDS:
        return None
    estimates = {kind: estimate(session, models, kind) for kind in kinds}
    commonest = max(kinds, key=estimates.__getitem__)
    others = sum(estimates.values()) - estimates[commonest]
    return commonest if estimates[commonest] > COMMONNESS * others else None


def estimate(session: Door, models: StoreModels, kind: Kind) -> int:
    """How many tasks of a kind there are, as the server estimates by two looks at an index."""
    connection = connection_of(session)
    compiled = compiled_for(connection, those_of_kind(models))
    plan = connection.exec_driver_sql(f"EXPLAIN {compiled.text}", compiled.values(kind._asdict()))
    return int(plan.mappings().one()["rows"] or 0)  # MariaDB gives text


@lru_cache
def queues_and_statuses(models: StoreModels) -> Select[str, str | None]:
    """What there is. An index that begins with these columns is skipped through."""
    return select(models.task.queue, models.task.status).distinct()


@lru_cache
def those_of_kind(models: StoreModels) -> Select[Any]:
    """The tasks of a kind."""
    return hinted(models, select(models.task.id)).where(is_of_kind(models.task))


def is_of_kind(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The tasks of a kind whose values are bound."""
    status, scheduled, queue = bound_kind()
    return (task.status == status) & (task.scheduled == scheduled) & (task.queue == queue)


def is_of_another(task: type[TaskMixin]) -> ColumnElement[bool]:
    """All other tasks, as ranges of the claim's index."""
    status, scheduled, queue = bound_kind()
    return or_(
        task.status.is_(None),
        task.status != status,
        (task.status == status) & (task.scheduled != scheduled),
        (task.status == status) & (task.scheduled == scheduled) & (task.queue != queue),
    )


def bound_kind() -> tuple[ColumnElement[str], ColumnElement[bool], ColumnElement[str]]:
    """The values of a kind."""
    return (
        bindparam("status", type_=String()),
        bindparam("scheduled", type_=Boolean()),
        bindparam("queue", type_=String()),
    )


def hinted(models: StoreModels, question: Select[Any]) -> Select[Any]:
    """The question, to be answered from the claim's index."""
    assert models.index_hint is not None, "who needs all tasks in an index can be told which"
    return question.with_hint(models.task, models.index_hint.format(f"ix_{table_of(models.task).name}_claim"))


@lru_cache
def count_by_kinds(models: StoreModels, but_one: bool) -> Any:
    """Groups of tasks, several for a queue and a status, each with what is in doubt about it.

    ``but_one`` leaves out a kind, and adds a row without a queue that tells how many tasks there are in all.
    """
    kinds = by_kind(models)
    if but_one:
        kinds = kinds.where(is_of_another(models.task))
    parts = [kinds, tried(models), released(models), without_time(models), overdue(models), timeless(models)]
    if but_one:
        parts.append(select(null(), null(), func.count(), ZERO, ZERO, NO_TIME, ZERO).select_from(models.task))
    return union_all(*parts)


def by_kind(models: StoreModels) -> Select[Any]:
    """All tasks; those that are scheduled as if their time were to come."""
    task = models.task
    to_come = case(((task.status == QUEUED) & (task.scheduled == TRUE), func.count()), else_=ZERO)
    doubt = by_hand_if(task.status.is_(None))
    rows = select(task.queue, task.status, func.count(), to_come, ZERO, NO_TIME, doubt)
    return hinted(models, rows).group_by(task.status, task.scheduled, task.queue)


def tried(models: Models) -> Select[Any]:
    """Those that wait for another attempt, and since when the oldest of them has been due."""
    task = models.task
    to_come = count_where((task.scheduled == FALSE) & (task.due_at > asked_at()))
    due_at = func.coalesce(task.due_at, task.created_at)
    oldest = func.min(case((due_at <= asked_at(), due_at)))
    rows = select(task.queue, QUEUED, ZERO, to_come, count_where(task.retry_count > 0), oldest, ZERO)
    is_tried = or_(task.retry_count > 0, task.retry_count < 0, task.retry_count.is_(None))
    return rows.where(task.status == QUEUED, task.scheduled.in_([FALSE, TRUE]), is_tried).group_by(task.queue)


def released(models: Models) -> Select[Any]:
    """Since when untried tasks with a time of their own have been due; by hand, one may be due before its time."""
    task = models.task
    doubt = by_hand_if(func.max(task.due_at) > asked_at())
    rows = select(task.queue, QUEUED, ZERO, ZERO, ZERO, func.min(task.due_at), doubt)
    return rows.where(is_untried(task)).group_by(task.status, task.scheduled, task.retry_count, task.queue)


def without_time(models: Models) -> Select[Any]:
    """Since when untried tasks without one have been due."""
    task = models.task
    rows = select(task.queue, QUEUED, ZERO, ZERO, ZERO, func.min(task.created_at), ZERO)
    columns = (task.status, task.scheduled, task.retry_count, task.queue, task.due_at)
    return rows.where(is_untried(task), task.due_at.is_(None)).group_by(*columns)


def is_untried(task: type[TaskMixin]) -> ColumnElement[bool]:
    """The due tasks that were not tried yet. Grouped by an index's first columns, the index is skipped through."""
    return is_due(task) & (task.retry_count == ZERO)


def timeless(models: Models) -> Select[Any]:
    """What ``by_kind`` cannot tell of those that somebody scheduled by hand without a time."""
    task = models.task
    rows = select(task.queue, QUEUED, ZERO, -func.count(), ZERO, func.min(task.created_at), ZERO)
    return rows.where(is_timeless(task)).group_by(task.queue)
