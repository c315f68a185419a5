"""What makes a database ready: its clock is read, its tables are made or upgraded, or found to be good."""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from . import schema, schema_check
from .clock import Clock
from .dialect import Dialect
from .models import StoreModels


class Readiness:
    """Makes one database ready.

    Args:
        dialect: what this kind of database does differently.
        models: the mapped classes.
        auto_upgrade: whether an older schema is upgraded.
        target: what the database is called in messages.
    """

    def __init__(self, dialect: Dialect, models: StoreModels, *, auto_upgrade: bool, target: str) -> None:
        self._dialect = dialect
        self._models = models
        self._auto_upgrade = auto_upgrade
        self._target = target

    def make(self, engine: Engine, clock: Clock) -> None:
        """Make it ready, with ``clock`` set; raise if this version cannot work with its server or its tables."""
        with self._dialect.connect_to_look(engine) as connection:
            self._dialect.check_server(connection)
            self._dialect.set_clock(clock, connection)
            to_alter = self._look_at_schema(connection)
        if to_alter:
            with self._dialect.lock_schema(engine) as connection:
                schema.ensure(connection, auto_upgrade=self._auto_upgrade, target=self._target)
        self._dialect.settle(engine)

    def _look_at_schema(self, connection: Connection) -> bool:
        """Say whether the tables are to be made or upgraded; raise if this version cannot work with them."""
        if self._models.app_owned:
            schema_check.check_owned(connection, self._models, target=self._target)
            return False
        state = schema.read_state(connection)
        if self._dialect.read_only:
            schema.check(connection, target=self._target)
        elif state.is_newer:
            schema.check_newer(connection, state)
        return not (self._dialect.read_only or state.is_current or state.is_newer)

    def check_fully(self, engine: Engine) -> None:
        """Raise ``SchemaError`` if the tables lack anything; see ``schema_check.check_fully``."""
        with self._dialect.connect_to_look(engine) as connection:
            schema_check.check_fully(connection, self._models, target=self._target)
