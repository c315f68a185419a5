"""For the Alembic of an app in whose database sitq has tables of its own."""

from __future__ import annotations

from typing import Any

from .models import OWN_MODELS
from .schema import VERSION_TABLE, script_location

_OWN_TABLES = frozenset({VERSION_TABLE, *(table.name for table in OWN_MODELS.tables)})


def migrations_path() -> str:
    """Return the folder of sitq's revisions, for ``version_locations`` of an app's Alembic.

    They are a branch of their own there, with the label ``sitq``: ``alembic upgrade sitq@head``. The revision is
    then recorded in the app's version table, and sitq neither makes one of its own nor upgrades the tables.
    """
    return str(script_location() / "versions")


def include_object(
    object: Any,  # noqa: A002  # as Alembic names it
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: Any,
) -> bool:
    """Keep autogenerate from dropping tables that belong to sitq: ``context.configure(include_object=...)``.

    Tables of the app's metadata are compared, whatever their names. With a rule of your own, ask both:
    ``sitq.include_object(*of) and mine(*of)``.
    """
    return not (type_ == "table" and reflected and compare_to is None and name in _OWN_TABLES)
