"""What both queues check about their arguments, and say about their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

from .backends.base import BaseBackend
from .endings import check_task_id, check_task_ids
from .exceptions import ConfigurationError, NotAvailableError, ResultTimeoutError, TaskNotFoundError
from .failures import storable
from .models import TaskStatus
from .options import check_choice, check_int, check_name, check_verbs, refuse
from .serialization import CloudpickleSerializer, Serializer

EndedStatus: TypeAlias = Literal["completed", "failed", "cancelled"]

LONGEST_TASK_NAME = 10_000
LONGEST_REASON = 2_000


def choose_backend(backend: object) -> BaseBackend:
    """Return the backend given to a queue or worker; ``None`` is a SQLite file ``sitq.db`` in the working folder."""
    if backend is None:
        from .backends.opening import open_backend  # only now: a queue knows no concrete backend

        return open_backend("sitq.db")
    if not isinstance(backend, BaseBackend):
        # Not shown: it may be a URL with a password.
        raise ConfigurationError(f"backend must be one such as SQLiteBackend('tasks.db'), not {type(backend).__name__}")
    return backend


def choose_serializer(serializer: Serializer | None) -> Serializer:
    """Return the serializer given to a queue or worker; ``None`` is a ``CloudpickleSerializer``."""
    if serializer is None:
        return CloudpickleSerializer()
    verbs = ("dump_call", "load_call", "dump_result", "load_result")
    return check_verbs("serializer", serializer, verbs, "a Serializer, such as JSONSerializer()")


def check_filters(status: object, queue: object, name: object, limit: object) -> dict[str, Any]:
    """Return what ``list`` was asked for, as keywords of the backend's ``list_tasks``."""
    return {
        "status": None if status is None else check_choice("status", status, list(TaskStatus)),
        "queue": None if queue is None else check_name("queue", queue),
        "name": None if name is None else check_name("name", name, longest=LONGEST_TASK_NAME),
        "limit": None if limit is None else check_int("limit", limit, at_least=1),
    }


def still_running(task_ids: list[str], timeout: object) -> ResultTimeoutError:
    """The error for tasks that had not ended in time."""
    which = f"task {task_ids[0]}" if len(task_ids) == 1 else f"{len(task_ids)} tasks, among them {task_ids[0]},"
    return ResultTimeoutError(f"{which} had not ended when the time to wait was up (timeout={timeout!r})")


def check_ids(task_ids: object) -> list[str]:
    """Return the ids given to a verb that takes one or several, each once."""
    return [check_task_id(task_ids)] if isinstance(task_ids, str) else list(check_task_ids(task_ids))


def is_statement(task_ids: object) -> bool:
    """Whether tasks are named by a statement of SQL, which is the backend's to understand, and not by their ids."""
    return not isinstance(task_ids, Iterable) and hasattr(task_ids, "compile")


def check_reason(reason: object) -> str | None:
    """Return why a task is cancelled, or ``None``."""
    if reason is None:
        return None
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON or storable(reason) != reason:
        refuse("reason", reason, f"a text of at most {LONGEST_REASON} characters that can be stored")
    return reason


def answer_for(task_ids: object, results: Mapping[str, Any]) -> Any:
    """What became of one task, or of each of several."""
    if not isinstance(task_ids, str):
        return dict(results)
    if results[task_ids] == "unknown":
        raise TaskNotFoundError(task_ids)
    return results[task_ids]


def require_purge(backend: BaseBackend, verb: str) -> Callable[..., Any]:
    """Return the backend's verb that deletes ended tasks."""
    purge: Callable[..., Any] | None = getattr(backend, verb, None)
    if purge is None:
        raise NotAvailableError(f"{type(backend).__name__} cannot delete tasks")
    return purge
