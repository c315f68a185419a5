"""Timing statements, and logging them: the text, the time and the rows, never a parameter, which may be a payload."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy

logger = logging.getLogger("sitq.sql")

WINDOW = 60.0
"""Seconds for which a statement counts in the average."""

STATEMENTS = 1_000
"""The latest statements that are remembered."""

SLOW = 100.0
"""Milliseconds from which on a statement is marked as slow."""


class QueryTimes:
    """How long the latest statements took, on all engines that are timed with it."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, float]] = deque(maxlen=STATEMENTS)

    def average(self) -> float:
        """The mean in milliseconds, over the last minute and at most a thousand statements; 0 if there were none."""
        since = time.perf_counter() - WINDOW
        times = [seconds for ended, seconds in self._ended.copy() if ended >= since]
        return sum(times) / len(times) * 1000 if times else 0.0

    def note(self, began: float) -> None:
        """Count a statement that has just ended and began then, by ``time.perf_counter``."""
        now = time.perf_counter()
        self._ended.append((now, now - began))

    def watch(self, engine: Engine) -> None:
        """Time each statement of an engine."""
        clock = time.perf_counter

        def note_start(*arguments: Any) -> None:
            arguments[4].sitq_started = clock()

        def note_end(*arguments: Any) -> None:
            self.note(arguments[4].sitq_started)

        event.listen(engine, "before_cursor_execute", note_start)
        event.listen(engine, "after_cursor_execute", note_end)


def log_queries(engine: Engine) -> None:
    """Log each statement of a timed engine when it has run, at level INFO to the logger ``sitq.sql``."""
    event.listen(engine, "after_cursor_execute", _log)


def _log(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    _tell(statement, time.perf_counter() - context.sitq_started, _count_rows(cursor, context))


def log_query(connection: Connection, statement: str, seconds: float, rows: int) -> None:
    """Log what was sent past SQLAlchemy, if the statements of its engine are logged."""
    if event.contains(connection.engine, "after_cursor_execute", _log):
        _tell(statement, seconds, rows)


def _tell(statement: str, seconds: float, rows: int) -> None:
    milliseconds = seconds * 1000
    slow = milliseconds >= SLOW
    logger.info(
        "%s [%.1f ms, %s%s]",
        " ".join(statement.split()),
        milliseconds,
        "1 row" if rows == 1 else f"{rows} rows",
        ", SLOW" if slow else "",
        extra={"action": "query", "milliseconds": milliseconds, "rows": rows, "slow": slow},
    )


def _count_rows(cursor: Any, context: Any) -> int:
    """How many rows were written, or were found: these are fetched now, which is when SQLite looks for them."""
    if cursor.description is None or context.execution_options.get("stream_results"):
        return max(int(cursor.rowcount), 0)
    rows = cursor.fetchall()
    context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, cursor.description, initial_buffer=rows)
    return len(rows)
