"""Whether tables are as this version needs them: those of an app when they are opened, and all on demand."""

from __future__ import annotations

from sqlalchemy import Connection

from . import schema
from .comparison import lacks, lost_indexes
from .exceptions import SchemaError
from .models import Models


def check_owned(connection: Connection, models: Models, *, target: str) -> None:
    """Raise ``SchemaError`` if the tables of an app lack what this version needs; nothing is ever altered."""
    missing = [*lacks(connection, models.tables)]
    if missing:
        raise unfit(target, models, missing)


def check_fully(connection: Connection, models: Models, *, target: str) -> None:
    """Raise ``SchemaError`` if anything is missing or of another type, indexes too, and say all of it.

    Raises what ``schema.check`` raises as well; nothing is altered.
    """
    if not models.app_owned:
        state = schema.read_state(connection)
        if state.is_outdated and state.revision is not None:
            raise schema.outdated(state, target)
        schema.check(connection, target=target)
    problems = [*lacks(connection, models.tables), *lost_indexes(connection, models.tables)]
    if problems:
        raise unfit(target, models, problems)


def revision_of(connection: Connection, models: Models) -> str | None:
    """The revision of the tables; those of an app have this version's if they lack nothing that it needs."""
    if not models.app_owned:
        return schema.read_state(connection).revision
    return None if next(lacks(connection, models.tables), None) else schema.HEAD


def unfit(target: str, models: Models, problems: list[str]) -> SchemaError:
    """The error that lists what is wrong, and says whose affair it is."""
    remedy = (
        "they belong to the app: create or upgrade them, by its Alembic (alembic revision --autogenerate, then "
        "alembic upgrade) or by metadata.create_all"
        if models.app_owned
        else f"somebody has altered them; see sitq upgrade {target}"
    )
    listed = "".join(f"\n- {problem}" for problem in problems)
    return SchemaError(
        f"the tables in {target} are not what this version of sitq needs (revision {schema.HEAD}); {remedy}:{listed}"
    )
