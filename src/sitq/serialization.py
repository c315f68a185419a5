"""Bytes in, bytes out: how a call and its return value are written, and how they are read again.

A serializer is asked for whole calls, with the task's id, so that one of your own may bind the parts of a
call together. Its errors name the function, the argument and the kind of what went wrong; they show no
value, as arguments may be private and errors end up in logs.
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, ref

from . import pickling
from .carrying import NotCarriedError, name_of, read_part, reason_for, write_part
from .exceptions import DeserializationError, SerializationError, SignatureError
from .signing import CALL, RESULT, Signer, is_signed


class Payload(NamedTuple):
    """A call as bytes: what the columns of a task hold. ``None`` stands for no arguments."""

    function: bytes
    args: bytes | None
    kwargs: bytes | None


class Call(NamedTuple):
    """A call that is ready to be made."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Serializer(Protocol):
    """What a queue and a worker need; both sides of a task must use the same one. Threads may share it."""

    def dump_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, task_id: str
    ) -> Payload:
        """Write a call. Raises ``SerializationError``, naming the argument."""
        ...

    def load_call(self, payload: Payload, *, task_id: str) -> Call:
        """Read a call. Raises ``DeserializationError``; ``None`` for arguments means there are none."""
        ...

    def dump_result(self, value: Any, *, task_id: str) -> bytes:
        """Write a return value. Raises ``SerializationError``."""
        ...

    def load_result(self, data: bytes, *, task_id: str) -> Any:
        """Read a return value. Raises ``DeserializationError``."""
        ...


class ValueSerializer:
    """A serializer made of four steps: the function and the values, each to bytes and back.

    Subclass it and write ``dump_function``, ``load_function``, ``dump_value`` and ``load_value``; they may
    raise anything. What they raise becomes a ``SerializationError`` or ``DeserializationError`` that tells
    which part it was.
    """

    def dump_function(self, function: Callable[..., Any]) -> bytes:
        """Write a function so that a worker finds or rebuilds it."""
        raise NotImplementedError(f"{type(self).__name__} has no dump_function")

    def load_function(self, data: bytes) -> object:
        """Read what ``dump_function`` wrote."""
        raise NotImplementedError(f"{type(self).__name__} has no load_function")

    def dump_value(self, value: object) -> bytes:
        """Write a tuple of arguments, a dict of keywords, one of either, or a return value."""
        raise NotImplementedError(f"{type(self).__name__} has no dump_value")

    def load_value(self, data: bytes) -> Any:
        """Read what ``dump_value`` wrote."""
        raise NotImplementedError(f"{type(self).__name__} has no load_value")

    def dump_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, task_id: str
    ) -> Payload:
        """See ``Serializer.dump_call``."""
        return Payload(
            write_part("the function ", self.dump_function, function, function),
            self._dump_arguments(args, function) if args else None,
            self._dump_arguments(kwargs, function) if kwargs else None,
        )

    def load_call(self, payload: Payload, *, task_id: str) -> Call:
        """See ``Serializer.load_call``."""
        function = read_part("function", task_id, self.load_function, payload.function)
        args = read_part("arguments", task_id, self.load_value, payload.args) if payload.args is not None else ()
        kwargs = read_part("keywords", task_id, self.load_value, payload.kwargs) if payload.kwargs is not None else {}
        if not callable(function):
            raise DeserializationError(f"what is stored as the function of task {task_id} cannot be called")
        if not isinstance(args, tuple | list):
            raise DeserializationError(f"what is stored as the arguments of task {task_id} is no tuple")
        if not isinstance(kwargs, dict) or (kwargs and not all(isinstance(name, str) for name in kwargs)):
            raise DeserializationError(f"what is stored as the keywords of task {task_id} is no dict with text keys")
        return Call(function, tuple(args), kwargs)

    def dump_result(self, value: Any, *, task_id: str) -> bytes:
        """See ``Serializer.dump_result``."""
        return write_part(f"the return value ({type(value).__name__}) of task {task_id}", self.dump_value, value)

    def load_result(self, data: bytes, *, task_id: str) -> Any:
        """See ``Serializer.load_result``."""
        return read_part("return value", task_id, self.load_value, data)

    def _dump_arguments(self, whole: tuple[Any, ...] | dict[str, Any], function: Callable[..., Any]) -> bytes:
        try:
            return self.dump_value(whole)
        except Exception as exc:
            reason = reason_for(exc)
        for name, value in whole.items() if isinstance(whole, dict) else enumerate(whole, 1):
            write_part(f"argument {name!r} ({type(value).__name__}) of ", self.dump_value, value, function)
        raise SerializationError(f"the arguments of {name_of(function)} cannot be written together: {reason}")


class CloudpickleSerializer(ValueSerializer):
    """Takes whatever cloudpickle takes: lambdas, closures and functions of ``__main__`` travel by value.

    Functions of importable modules travel by reference, so that a worker runs its own version of them.
    Loading runs code: give it only bytes that come from your own database, or sign what you write.

    Args:
        signing_keys: secrets by name, the same wherever tasks are enqueued and run. What is written is signed
            with the first; what none of them signed for this task is a ``SignatureError``, and is not loaded.
    """

    def __init__(self, *, signing_keys: Mapping[str, str | bytes] | None = None) -> None:
        self._signer = None if signing_keys is None else Signer(signing_keys)
        self._forget()

    def _forget(self) -> None:
        """Remember no function."""
        self._references: WeakKeyDictionary[Callable[..., Any], bytes] = WeakKeyDictionary()
        self._latest: tuple[Callable[[], object], bytes] = (object, b"")  # of these; what comes in bulk is one function
        self._loaded: tuple[bytes, object] = (b"", None)

    def __getstate__(self) -> dict[str, Any]:
        """On its way into a worker's child processes: what it remembers of functions stays here."""
        remembered = ("_references", "_latest", "_loaded")
        return {name: value for name, value in vars(self).items() if name not in remembered}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def dump_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, task_id: str
    ) -> Payload:
        """See ``Serializer.dump_call``."""
        payload = super().dump_call(function, args, kwargs, task_id=task_id)
        if self._signer is None:
            return payload
        return payload._replace(function=self._sign(CALL, task_id, payload.function, payload[1:]))

    def load_call(self, payload: Payload, *, task_id: str) -> Call:
        """See ``Serializer.load_call``. Raises ``SignatureError`` before anything is loaded."""
        function = self._verify(CALL, task_id, payload.function, payload[1:])
        if function is not payload.function:
            payload = payload._replace(function=function)
        return super().load_call(payload, task_id=task_id)

    def dump_result(self, value: Any, *, task_id: str) -> bytes:
        """See ``Serializer.dump_result``."""
        return self._sign(RESULT, task_id, super().dump_result(value, task_id=task_id))

    def load_result(self, data: bytes, *, task_id: str) -> Any:
        """See ``Serializer.load_result``. Raises ``SignatureError`` before anything is loaded."""
        return super().load_result(self._verify(RESULT, task_id, data), task_id=task_id)

    def dump_function(self, function: Callable[..., Any]) -> bytes:
        """Pickle a function; what is a mere reference is made once."""
        latest, data = self._latest
        if function is not None and latest() is function:
            return data
        if not pickling.is_lasting(function):
            return pickling.dump(function)
        known = self._references.get(function)
        if known is None:
            data = _dump_function(function)
            if not pickling.is_reference(function, data):
                return data
            self._references[function] = known = data
        self._latest = ref(function), known
        return known

    def load_function(self, data: bytes) -> object:
        """Unpickle a function, importing its module if it was a reference; the same one again is at hand."""
        known, function = self._loaded
        if data == known and pickling.is_importable(function):
            return function
        function = pickle.loads(data)
        # By another name than its own it may be there for a while only, as in a test.
        if pickling.is_importable(function) and pickling.is_reference(function, data):
            self._loaded = data, function
        return function

    def dump_value(self, value: object) -> bytes:
        """Pickle a value, plain data by the faster way."""
        plain = pickling.dump_plain(value)
        return plain if plain is not None else pickling.dump(value)

    def load_value(self, data: bytes) -> Any:
        """Unpickle a value."""
        return pickle.loads(data)

    def _sign(self, kind: bytes, task_id: str, data: bytes, rest: Iterable[bytes | None] = ()) -> bytes:
        return data if self._signer is None else self._signer.sign(kind, task_id, data, rest)

    def _verify(self, kind: bytes, task_id: str, data: bytes, rest: Iterable[bytes | None] = ()) -> bytes:
        if self._signer is not None:
            return self._signer.verify(kind, task_id, data, rest)
        if is_signed(data):
            raise SignatureError(f"the {kind.decode()} of task {task_id} is signed; give the serializer signing_keys")
        return data


class JSONSerializer(ValueSerializer):
    """Stores an import path, as in ``shop.mail:send``, and arguments as JSON, for people and other languages to read.

    A tuple inside an argument arrives as a list, and a value of a subclass, as an ``IntEnum`` is of ``int``, as
    the plain value. Keys that are not texts, and numbers that JSON lacks, are refused.
    """

    def dump_function(self, function: Callable[..., Any]) -> bytes:
        """Write the function's import path; refuse what has none that leads back to it."""
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
        if module == "__main__":
            raise NotCarriedError("another process cannot import it from __main__; move it into a module")
        if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
            raise NotCarriedError("it has no import path; use a function at the top of a module")
        if not _is_same(_follow(module, name), function):
            raise NotCarriedError(f"{module}:{name} is something else; use a function at the top of a module")
        return f"{module}:{name}".encode()

    def load_function(self, data: bytes) -> object:
        """Import the function."""
        module, _, name = data.decode().partition(":")
        importlib.import_module(module)
        return _follow(module, name)

    def dump_value(self, value: object) -> bytes:
        """Write JSON, in UTF-8."""
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        _check_keys(value)
        return text.encode()

    def load_value(self, data: bytes) -> Any:
        """Read JSON."""
        return json.loads(data)


def _follow(module: str, name: str) -> object:
    found: object = sys.modules[module]
    for attribute in name.split("."):
        found = getattr(found, attribute)
    return found


def _is_same(found: object, function: object) -> bool:
    # A method of a class is made anew each time that it is asked for.
    return found is function or (isinstance(function, MethodType) and found == function)


def _check_keys(value: object) -> None:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be texts, not {type(key).__name__}")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _dump_function(function: Callable[..., Any]) -> bytes:
    try:
        return pickling.dump(function)
    except Exception as exc:
        reason = reason_for(exc)
    raise NotCarriedError(
        f"{reason}; without an import path it travels with all that it refers to: move both into a module that "
        f"workers can import"
    )
