"""Every statement that sitq sends, each as a plain function.

A function here takes a SQLAlchemy ``Session`` first and the mapped classes second, and never commits: the
caller owns the transaction. Time comes in as an argument, so that nothing here reads a clock.
"""

from .cancelling import cancel, cancel_requests, only_wanted
from .claiming import claim, isolated_waiting
from .copying import (
    Written,
    add_paused,
    count_records,
    delete_everything,
    first_running,
    insert_rows,
    paused_states,
    read_page,
    read_records,
    table_names,
    write_records,
)
from .counting import count_tasks, oldest_due_at
from .enqueueing import enqueue, is_one_statement, with_scheduled
from .finishing import complete, finish, finish_and_claim, were_ours
from .leasing import extend
from .lone_rounds import is_round_alone, rounds_alone
from .pausing import pause_queue, paused_queues, resume_queue
from .progressing import write_progress
from .purging import EndedTasks, ended_tasks, purge_some
from .reading import get_result, get_statuses, get_task, has_result, list_all_tasks, list_tasks
from .reaping import reap, reap_workers
from .retrying import retry
from .reviving import pause_every_queue, revive
from .scheduling import next_due_at
from .selecting import cancel_selected, check_selection, retry_selected, selected_ids
from .storing import store_result, store_task, update_task_status

__all__ = [
    "EndedTasks",
    "Written",
    "add_paused",
    "cancel",
    "cancel_requests",
    "cancel_selected",
    "check_selection",
    "claim",
    "complete",
    "count_records",
    "count_tasks",
    "delete_everything",
    "ended_tasks",
    "enqueue",
    "extend",
    "finish",
    "finish_and_claim",
    "first_running",
    "get_result",
    "get_statuses",
    "get_task",
    "has_result",
    "insert_rows",
    "is_one_statement",
    "is_round_alone",
    "isolated_waiting",
    "list_all_tasks",
    "list_tasks",
    "next_due_at",
    "oldest_due_at",
    "only_wanted",
    "pause_every_queue",
    "pause_queue",
    "paused_queues",
    "paused_states",
    "purge_some",
    "read_page",
    "read_records",
    "reap",
    "reap_workers",
    "resume_queue",
    "retry",
    "retry_selected",
    "revive",
    "rounds_alone",
    "selected_ids",
    "store_result",
    "store_task",
    "table_names",
    "update_task_status",
    "were_ours",
    "with_scheduled",
    "write_progress",
    "write_records",
]
