"""A worker in a process of its own, watched by a witness: ``python -m proofs.victim SETTINGS`` with JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Engine, event

import sitq
from freezing import freeze_on_signal
from sitq.presence import Presence

from . import witness
from .clocks import follow_offset
from .evidence import Log

QUEUES = ["default"]
QUEUES_IN_TRANSACTIONS = ["default", "none"]
"""With two queues the rounds of a worker are transactions on PostgreSQL too."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a victim is told.

    Attributes:
        url: the database.
        log: the file of the log.
        point: where to die, and ``nth``: when it comes there for the how manieth time.
        kills: whether it dies there, or is stopped.
        lease: the worker's, in seconds.
        concurrency: the worker's.
        elsewhere: live as a worker of another machine does, whose death only its leases tell.
        clock: a file with the seconds by which the database's clock is ahead.
        options: the backend's.
    """

    url: str
    log: str
    point: str | None = None
    nth: int = 1
    kills: bool = True
    lease: float = 30.0
    concurrency: int = 4
    elsewhere: bool = False
    clock: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The command that runs such a victim."""
        return [sys.executable, "-W", "error", "-m", "proofs.victim", json.dumps(asdict(self))]


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    watching = witness.Witness(Log(settings.log), point=settings.point, nth=settings.nth, kills=settings.kills)
    witness.call(watching)
    backend = sitq.open_backend(settings.url, **settings.options)
    watching.watch(backend)
    freeze_on_signal(backend)
    if settings.point == witness.IN_COMPLETION:
        event.listen(Engine, "commit", watching.before_commit)
    if settings.point == witness.IN_STATEMENT:
        event.listen(Engine, "before_cursor_execute", watching.before_statement, retval=True)
    if settings.elsewhere:
        backend.presence = Presence  # type: ignore[method-assign]
    if settings.clock is not None:
        follow_offset(backend, settings.clock)
    with backend:
        print("ready", flush=True)
        sitq.Worker(
            backend,
            queues=QUEUES_IN_TRANSACTIONS if settings.point == witness.IN_COMPLETION else QUEUES,
            lease=settings.lease,
            concurrency=settings.concurrency,
            shutdown_timeout=60,
        ).run()


if __name__ == "__main__":
    main()
