"""The health check: a look at a database that never raises and never takes long, whatever the database does."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from .. import schema_check, store
from ..database import Database
from ..exceptions import SitqError
from ..health import Health
from ..models import StoreModels

LONGEST_LOOK = 4.5
"""Seconds after which a database that has not answered is unhealthy."""

PATIENCE = 2.0
"""Seconds that a look waits for somebody else's lock."""


class Examiner:
    """Looks at one database, one look at a time: who asks while a look goes on, or hangs, waits for the same."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._look: _Look | None = None

    def health(self) -> Health:
        """How the database is."""
        look = self._look_now()
        look.join(LONGEST_LOOK)
        error = look.error
        if look.is_alive():
            error = (
                f"{self._database.target} did not answer within {LONGEST_LOOK:g} s: "
                f"somebody holds its lock, or its disk hangs"
            )
        return Health(
            is_healthy=error is None,
            error=error,
            active_connections=self._database.connections_in_use,
            avg_query_time=self._database.average_query_time,
            **look.findings.copy(),
        )

    def _look_now(self) -> _Look:
        with self._lock:
            if self._look is None or not self._look.is_alive():
                self._look = _Look(self._database)
                self._look.start()
            return self._look


class _Look(threading.Thread):
    """One look, in a thread that may be left behind; what was found before an error counts."""

    def __init__(self, database: Database) -> None:
        super().__init__(name="sitq-health", daemon=True)
        self._database = database
        self.findings: dict[str, Any] = {}
        self.error: str | None = None

    def run(self) -> None:
        try:
            with self._database.translated():
                self._examine()
        except SitqError as error:
            self.error = str(error)
        except Exception as error:  # a health check never raises
            self.error = f"{type(error).__name__}: {error}"

    def _examine(self) -> None:
        database, dialect = self._database, self._database.dialect
        database.open()
        self.findings |= dialect.measure()
        engine = dialect.create_engine_apart(PATIENCE)
        if engine is None:
            database.read_in_transaction(self._ask)
            return
        try:
            self._ask_apart(engine)
        finally:
            engine.dispose()

    def _ask_apart(self, engine: Engine) -> None:
        with Session(engine) as session:
            self._ask(session, self._database.models)
        self.findings |= self._database.dialect.examine(engine)

    def _ask(self, session: Session, models: StoreModels) -> None:
        self._database.dialect.enter_schema(session.connection())
        self.findings["schema_revision"] = schema_check.revision_of(session.connection(), models)
        self.findings["oldest_due_at"] = store.oldest_due_at(session, models)
