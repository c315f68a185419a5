"""Which statements over an app's engines write tasks: sitq says in its own way why they failed."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Engine
from sqlalchemy.engine import ExceptionContext

from .models import Models

_names: WeakKeyDictionary[Dialect, set[str]] = WeakKeyDictionary()
"""The names of the tables, by the dialect of an engine: errors are the dialect's in SQLAlchemy."""


def know_tasks(engine: Engine, models: Models) -> None:
    """Know the table of tasks in the statements of an engine."""
    _names.setdefault(engine.dialect, set()).add(models.tables[0].name)


def writes_tasks(context: ExceptionContext) -> bool:
    """Whether the statement that failed was to write tasks, in tables that are known."""
    compiled: Any = getattr(context.execution_context, "compiled", None)
    table = getattr(getattr(compiled, "statement", None), "table", None)
    return getattr(table, "name", None) in _names.get(context.dialect, ())
