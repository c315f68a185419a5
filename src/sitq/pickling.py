"""How values become pickles: plain data by the fast way, whatever else by cloudpickle."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NoReturn, TypeGuard

import cloudpickle

PROTOCOL = 5  # every Python that sitq runs on reads it
_ATOMS = frozenset({bool, int, float, str, bytes, type(None)})


def dump(value: object) -> bytes:
    """Pickle nearly anything; functions that cannot be imported travel by value."""
    data: bytes = cloudpickle.dumps(value, protocol=PROTOCOL)
    return data


def dump_plain(value: object) -> bytes | None:
    """Pickle plain data; ``None`` if it is not."""
    if type(value) in _ATOMS or (type(value) is tuple and _ATOMS.issuperset(map(type, value))):
        return pickle.dumps(value, PROTOCOL)  # nothing in it could be anything but plain
    return _PlainPickler.dumps(value)


def is_lasting(function: object) -> bool:
    """Whether this is a function itself, Python's or C's: no bound method or other object, with a state of its own."""
    if type(function) is BuiltinFunctionType:
        return isinstance(function.__self__, ModuleType)
    return type(function) is FunctionType


def is_importable(function: object) -> TypeGuard[Callable[..., Any]]:
    """Whether this is just what its module has under its name, at this moment."""
    if not is_lasting(function):
        return False
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return module is not None and vars(module).get(function.__qualname__) is function  # type: ignore[attr-defined]  # a function has a name


def is_reference(function: Callable[..., Any], data: bytes) -> bool:
    """Whether the pickle of a function is merely where to import it from."""
    # The standard pickler knows nothing but references.
    try:
        return pickle.dumps(function, PROTOCOL) == data
    except (pickle.PicklingError, AttributeError):
        return False


class _NotPlainError(Exception):
    """Something is neither text, bytes, number, boolean, None nor a collection of these."""


class _PlainPickler(pickle.Pickler):
    """Pickles plain data without asking anything in Python about each object."""

    def reducer_override(self, obj: object) -> NoReturn:
        raise _NotPlainError

    @classmethod
    def dumps(cls, value: object) -> bytes | None:
        buffer = io.BytesIO()
        try:
            cls(buffer, PROTOCOL).dump(value)
        except _NotPlainError:
            return None
        return buffer.getvalue()
