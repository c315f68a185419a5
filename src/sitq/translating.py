"""A driver's errors become sitq's where they leave a database."""

from __future__ import annotations

from collections.abc import Callable

from .exceptions import BackendError


class Translating:
    """Turns errors into sitq's. Every write enters it, so that it is no generator."""

    def __init__(self, translate: Callable[[BaseException], BackendError | None]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and (translation := self._translate(error)) is not None:
            raise translation from error
