"""Whether anybody but sitq listens to an engine: else writes may go past SQLAlchemy, straight to the driver."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection

from ..joining import hide_parameters

OWN = 1
"""How many listen to an engine's statements where only sitq does."""


class Unheard:
    """Looks who listens to the engine of a connection, and reads its log.

    Args:
        connection: sitq's own.
        own_begins: how many of sitq listen to beginning transactions.
        own_explanations: what of sitq listens to errors, besides what hides parameters: once somebody has enqueued
            in a transaction of his own over the engine.
    """

    def __init__(
        self, connection: Connection, *, own_begins: int = 0, own_explanations: Collection[Callable[..., Any]] = ()
    ) -> None:
        self._own_begins = own_begins
        self._own_explanations = (hide_parameters, *own_explanations)
        # SQLAlchemy, too, asks for these once for a connection.
        logs = connection.engine.logger.isEnabledFor(logging.INFO)
        self._is_watched = logs or not self._by(connection.dispatch, connection.dialect.dispatch)
        self._heard: Any = connection.engine.dispatch
        self._below: Any = connection.dialect.dispatch

    def __bool__(self) -> bool:
        return not self._is_watched and self._by(self._heard, self._below)

    def _by(self, heard: Any, below: Any) -> bool:
        """Whether only sitq hears of what happens, by the events of an engine, or a connection, and its dialect."""
        return (
            len(heard.begin) == self._own_begins
            and len(heard.before_cursor_execute) == OWN
            and len(heard.after_cursor_execute) == OWN
            and not (heard.commit or heard.rollback or below.do_execute)
            and (not below.handle_error or all(each in self._own_explanations for each in below.handle_error))
        )
