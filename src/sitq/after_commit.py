"""Waking waiters after the commit of a transaction that belongs to an app."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, RootTransaction, TwoPhaseTransaction, event
from sqlalchemy.orm import Session, SessionTransaction

from .wakeups import Wakeups

FIRST_LOOK, LAST_LOOK = 0.001, 0.05
"""Between two looks whether a commit is over, in seconds."""


class Wakes:
    """Who is to be woken by a commit: topics, by what wakes their waiters."""

    def __init__(self) -> None:
        self._topics: dict[Wakeups, set[str]] = {}

    def add(self, wakeups: Wakeups, topics: Iterable[str]) -> None:
        """Wake the waiters of these topics too."""
        self._topics.setdefault(wakeups, set()).update(topics)

    def send(self) -> None:
        """Wake them."""
        for wakeups, topics in self._topics.items():
            wakeups.notify(topics)


_pending: WeakKeyDictionary[Session | Connection, Wakes] = WeakKeyDictionary()


def wake_after_commit(owner: Session | Connection, wakeups: Wakeups, topics: Collection[str]) -> None:
    """Notify topics as soon as the outermost transaction of a session or a connection has been committed.

    A rollback forgets them. One to a savepoint does not: who is then woken for nothing waits on.
    """
    if isinstance(owner, Connection) and owner.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        wakeups.notify(topics)  # what it has executed is committed
        return
    wakes = _pending.get(owner)
    if wakes is None:
        wakes = _pending[owner] = Wakes()
        if isinstance(owner, Session):
            listen_to_sessions()
        else:
            listen_to(owner)
    wakes.add(wakeups, topics)


@cache
def listen_to_sessions() -> None:
    """Hear of the commits of all sessions; once, since listeners of each would cost every transaction more."""
    event.listen(Session, "after_commit", after_commit)
    event.listen(Session, "after_transaction_end", after_transaction_end)


def after_commit(session: Session) -> None:
    """A session has committed a transaction, or released a savepoint."""
    wakes = None if session.in_nested_transaction() else _pending.pop(session, None)
    if wakes is not None:
        wakes.send()


def after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """A transaction of a session is over: what it did not commit is gone."""
    if transaction.parent is None:
        _pending.pop(session, None)


def listen_to(connection: Connection) -> None:
    """Hear of one connection's commits; the listeners end with it, which is long before the driver's does."""
    for name, listener in (("commit", before_commit), ("rollback", forget)):
        event.listen(connection, name, listener)
        event.listen(connection, f"{name}_twophase", listener)


def before_commit(connection: Connection, *_: object) -> None:
    """A connection is about to commit. SQLAlchemy has no event for when it has."""
    wakes, transaction = _pending.get(connection), connection.get_transaction()
    if wakes is None or transaction is None:
        return
    _pending[connection] = Wakes()
    waker = threading.Thread(target=wake_when_over, args=(transaction, wakes), name="sitq-waker", daemon=True)
    with suppress(RuntimeError):  # while the interpreter ends, there is nobody left to be woken
        waker.start()


def forget(connection: Connection, *_: object) -> None:
    """A connection rolls its transaction back."""
    _pending[connection] = Wakes()


def wake_when_over(transaction: RootTransaction | TwoPhaseTransaction, wakes: Wakes) -> None:
    """Wake them when the transaction has ended; if its commit fails, for nothing."""
    pause = FIRST_LOOK
    while transaction.is_active:
        time.sleep(pause)
        pause = min(pause * 1.5, LAST_LOOK)
    wakes.send()
