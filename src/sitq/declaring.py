"""Tables that an app owns: declared in its metadata under names of its own, and what they must have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from sqlalchemy import ForeignKeyConstraint, MetaData, Table, inspect
from sqlalchemy.orm import DeclarativeBase, Mapper

from .documented import kind
from .exceptions import ConfigurationError
from .indexes import task_indexes
from .models import NAMING_CONVENTION, OWN_MODELS, Models, QueueStateMixin, ResultMixin, TaskMixin
from .options import refuse

LONGEST_PREFIX = 30
"""With it, the longest name of an index is as long as PostgreSQL lets a name be."""


def declare_models(
    base: Any,
    prefix: str = "sitq_",
    *,
    task: type[TaskMixin] | None = None,
    result: type[ResultMixin] | None = None,
    queue_state: type[QueueStateMixin] | None = None,
) -> Models:
    """Declare every table that sitq needs in an app's metadata, and return the classes for ``models=``.

    The app makes and upgrades the tables, by its Alembic or by ``create_all``. Call it once, beside the app's
    own models.

    Args:
        base: the app's declarative base, of whatever kind, or its ``MetaData``.
        prefix: what the names of the tables begin with: ``sitq_tasks``, ``sitq_results``, ``sitq_queues``.
        task: a class of the app's own, made with ``TaskMixin``; then no table of tasks is declared.
        result: the same, made with ``ResultMixin``.
        queue_state: the same, made with ``QueueStateMixin``.

    Raises:
        ConfigurationError: an argument is not allowed, or the app has a table of such a name already.
    """
    if not isinstance(prefix, str) or not re.fullmatch(rf"(?!\d)\w{{0,{LONGEST_PREFIX}}}", prefix, re.ASCII):
        refuse("prefix", prefix, f"at most {LONGEST_PREFIX} letters, digits and underscores")
    apps = base_of(base)
    require_free(apps.metadata, prefix, given=(task, result, queue_state))
    words = "".join(word.capitalize() for word in prefix.split("_"))
    task = task or declared(f"{words}Task", f"{prefix}tasks", TaskMixin, apps)
    result = result or declared(f"{words}Result", f"{prefix}results", ResultMixin, apps, refers_to(task))
    queue_state = queue_state or declared(f"{words}QueueState", f"{prefix}queues", QueueStateMixin, apps)
    return check_models(Models(task, result, queue_state))


def require_free(metadata: MetaData, prefix: str, given: tuple[type | None, ...]) -> None:
    """Raise ``ConfigurationError`` if the app has tables of the names that are to be declared."""
    for model, name in zip(given, ("tasks", "results", "queues"), strict=True):
        if model is None and any(table.name == prefix + name for table in metadata.tables.values()):
            refuse("prefix", prefix, f"one under which the app's metadata has no table {prefix + name!r} yet")


def base_of(base: Any) -> type[DeclarativeBase]:
    """A base that shares metadata and registry with the app's, and nothing else that the app's may give its classes."""
    metadata = base if isinstance(base, MetaData) else getattr(base, "metadata", None)
    if not isinstance(metadata, MetaData):
        refuse("base", base, "the declarative base of your models, or its MetaData")
    registry = getattr(base, "registry", None)
    shared = {"metadata": metadata} if registry is None else {"metadata": metadata, "registry": registry}
    return type("SitqBase", (DeclarativeBase,), shared)


def declared(name: str, table: str, mixin: type, base: type, *table_args: Any) -> Any:
    """A mapped class."""
    body = {"__tablename__": table, "__module__": __name__, "__table_args__": table_args}
    return type(name, (mixin, base), body)


def refers_to(task: type[TaskMixin]) -> ForeignKeyConstraint:
    """The reference of a result to its task."""
    return ForeignKeyConstraint(["task_id"], [task.__table__.c.id])  # type: ignore[attr-defined]  # it is mapped


def choose_models(models: object, schema: str | None) -> Models:
    """Return the models given to a backend, else sitq's own in this schema."""
    if models is None:
        return OWN_MODELS if schema is None else own_models(schema)
    if schema is not None:
        raise ConfigurationError("schema and models are not allowed together: the metadata of an app names its schema")
    return check_models(models)


@cache
def own_models(schema: str) -> Models:
    """Sitq's own tables in a schema of PostgreSQL's."""
    base = base_of(MetaData(schema=schema, naming_convention=NAMING_CONVENTION))
    task = declared("Task", "tasks", TaskMixin, base)
    result = declared("Result", "results", ResultMixin, base, refers_to(task))
    queue_state = declared("QueueState", "sitq_queues", QueueStateMixin, base)
    return Models(task, result, queue_state, app_owned=False)


def check_models(models: object) -> Models:
    """Return the models given to a backend; raise ``ConfigurationError`` for what a queue could not work with."""
    if not isinstance(models, Models):
        # Most likely a class, or a base.
        refuse("models", models, "what sitq.declare_models returns, or a sitq.Models of your classes")
    pairs = zip(
        (models.task, models.result, models.queue_state),
        (TaskMixin, ResultMixin, QueueStateMixin),
        OWN_MODELS.tables,
        strict=True,
    )
    for model, mixin, known in pairs:
        if not (isinstance(model, type) and issubclass(model, mixin)):
            raise ConfigurationError(f"models: {model!r} must be a mapped class made with sitq.{mixin.__name__}")
        mapper: Mapper[Any] | None = inspect(model, raiseerr=False)
        if mapper is None:
            raise ConfigurationError(f"models: {model.__name__} is not mapped: it needs a declarative base")
        problem = next(problems_of(mapper, known), None)
        if problem is not None:
            raise ConfigurationError(f"models: {model.__name__} cannot be used: {problem}")
    return models


def problems_of(mapper: Mapper[Any], known: Table) -> Iterator[str]:
    """What keeps a mapped class from being used in the place of the one with this table."""
    table = mapper.local_table
    if not isinstance(table, Table):
        yield "it is not mapped to a table of its own"
        return
    for column in known.columns:
        found = table.columns.get(column.name)
        if found is None or mapper.get_property_by_column(found).key != column.name:
            yield f"the column {column.name!r} of the mixin must keep its name"
        elif kind(found.type) is not kind(column.type):
            yield f"the column {column.name!r} of the mixin must keep its type"
    yield from required_of(mapper.class_, table, known)
    needed = {str(index.name) for index in task_indexes(table.name)} if known is OWN_MODELS.tables[0] else set()
    for name in sorted(needed - {index.name for index in table.indexes}):
        yield f"the index {name!r} of the mixin is missing"


def required_of(model: type[Any], table: Table, known: Table) -> Iterator[str]:
    """What a row or an instance of the class must be given, and sitq does not know of."""
    for field in fields(model):
        if field.init and field.name not in known.columns and field.default is MISSING is field.default_factory:
            yield f"sitq makes instances without its attribute {field.name!r}: give it a default"
    for column in table.columns:
        if column.name not in known.columns and not column.nullable and column.server_default is None:
            yield f"sitq inserts rows without its column {column.name!r}: let it be nullable, or have a server_default"
