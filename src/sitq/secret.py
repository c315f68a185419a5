"""Keys, held so that nothing shows them: not ``repr``, not a log, not a traceback that prints variables."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """A text or bytes that only ``reveal`` gives away."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The bytes. Use them where they are asked for, and give them no name."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


def concealed(value: str | Secret | None) -> Secret | None:
    """A text as a secret, anything else as it is. Give it the text's own name, so that no frame shows the text."""
    return Secret(value) if isinstance(value, str) else value
