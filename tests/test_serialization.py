"""Calls and results as bytes: what travels, what is refused, and that no error shows a value."""

from __future__ import annotations

import importlib
import json
import math
import os.path
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import pytest

from sitq.exceptions import DeserializationError, SerializationError
from sitq.serialization import CloudpickleSerializer, JSONSerializer, Payload, Serializer, ValueSerializer

SECRET = "hunter2-never-shown"
TASK = {"task_id": "task-1"}
SERIALIZERS = [CloudpickleSerializer(), JSONSerializer()]
both = pytest.mark.parametrize("serializer", SERIALIZERS, ids=lambda one: type(one).__name__)


def add(left: int, right: int = 0) -> int:
    return left + right


class Account:
    def __init__(self, password: str) -> None:
        self.password = password

    def check(self, password: str) -> bool:
        return password == self.password

    @classmethod
    def named(cls, name: str) -> Account:
        return cls(name)

    @staticmethod
    def twice(number: int) -> int:
        return 2 * number


class Unpicklable:
    """Refuses, and chats about what it holds."""

    def __reduce__(self) -> NoReturn:
        raise ValueError(f"cannot pickle {SECRET}")

    def __repr__(self) -> str:
        return SECRET


class Chatty:
    """Cannot be read again, and tells why in too many words."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, (SECRET,)


def _explode(text: str) -> NoReturn:
    raise RuntimeError(f"could not use {text}")


def trip(serializer: Serializer, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Write a call, read it, and make it."""
    call = serializer.load_call(serializer.dump_call(function, args, kwargs, **TASK), **TASK)
    return call.function(*call.args, **call.kwargs)


def refusal(serializer: Serializer, function: Any, *args: Any, **kwargs: Any) -> str:
    """The message with which a call is refused; nothing that a log may show of the error holds the secret."""
    with pytest.raises(SerializationError) as caught:
        serializer.dump_call(function, args, kwargs, **TASK)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is caught.value.__context__ is None
    return str(caught.value)


def unread(serializer: Serializer, payload: Payload) -> str:
    with pytest.raises(DeserializationError, match="task-1") as caught:
        serializer.load_call(payload, **TASK)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is caught.value.__context__ is None
    return str(caught.value)


@both
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, "a"), {}), ((), {"b": [1.5, None], "c": {"d": True}}), ((1,), {"b": 2}), (("ä\ud800\0",), {})],
)
def test_a_call_comes_back_as_it_was(serializer: Serializer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    payload = serializer.dump_call(os.path.join, args, kwargs, **TASK)
    assert serializer.load_call(payload, **TASK) == (os.path.join, args, kwargs)


@both
def test_no_arguments_are_no_bytes_and_no_bytes_are_no_arguments(serializer: Serializer) -> None:
    payload = serializer.dump_call(os.getcwd, (), {}, **TASK)
    assert (payload.args, payload.kwargs) == (None, None)
    assert serializer.load_call(payload, **TASK) == (os.getcwd, (), {})


@both
@pytest.mark.parametrize("value", [None, 0, "text", [1, {"a": None}], {"key": [True, 2.5]}])
def test_a_result_comes_back_as_it_was(serializer: Serializer, value: object) -> None:
    assert serializer.load_result(serializer.dump_result(value, **TASK), **TASK) == value


@both
@pytest.mark.parametrize("function", [len, json.dumps, Counter, Account.twice, Account])
def test_builtins_classes_and_their_methods_travel(serializer: Serializer, function: Any) -> None:
    call = serializer.load_call(serializer.dump_call(function, (), {}, **TASK), **TASK)
    assert call.function is function
    assert trip(serializer, Account.named, "open").check("open")


class TestCloudpickle:
    serializer = CloudpickleSerializer()

    def test_lambdas_closures_partials_and_bound_methods_travel(self) -> None:
        base = 40

        def add_base(number: int) -> int:
            return base + number

        assert trip(self.serializer, lambda number: number * 2, 21) == 42
        assert trip(self.serializer, add_base, 2) == 42
        assert trip(self.serializer, partial(add, 40), right=2) == 42
        assert trip(self.serializer, Account("open").check, "open") is True

    def test_values_of_every_kind_travel(self) -> None:
        loop: list[Any] = [1]
        loop.append(loop)
        values = (Decimal("1.5"), Path("a/b"), {1, 2}, {(1, 2): b"x"}, Counter("aab"), 1 + 2j, Account)
        assert trip(self.serializer, lambda *args: args, *values) == values
        assert trip(self.serializer, lambda again: again[1] is again, loop) is True

    def test_a_function_of_a_module_travels_by_reference(self) -> None:
        payload = self.serializer.dump_call(json.dumps, (), {}, **TASK)
        assert payload.function == pickle.dumps(json.dumps, 5)
        assert self.serializer.dump_call(json.dumps, (), {}, **TASK).function is payload.function

    def test_a_closure_is_pickled_anew_as_what_it_holds_may_change(self) -> None:
        number = 1

        def read() -> int:
            return number

        assert trip(self.serializer, read) == 1
        number = 2
        assert trip(self.serializer, read) == 2

    def test_the_documented_bytes_are_read(self) -> None:
        payload = Payload(pickle.dumps(add), pickle.dumps((40,)), pickle.dumps({"right": 2}))
        call = self.serializer.load_call(payload, **TASK)
        assert call.function(*call.args, **call.kwargs) == 42

    def test_what_main_defines_runs_in_another_process(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import sys\n"
            "from sitq.serialization import CloudpickleSerializer\n"
            "OFFSET = 40\n"
            "class Number:\n"
            "    def __init__(self, number): self.number = number\n"
            "def work(number): return OFFSET + number.number\n"
            "payload = CloudpickleSerializer().dump_call(work, (Number(2),), {}, task_id='t')\n"
            "sys.stdout.buffer.write(payload.function + b'|||' + payload.args)\n"
        )
        written = subprocess.run([sys.executable, script], capture_output=True, check=True).stdout
        function, args = written.split(b"|||")
        call = self.serializer.load_call(Payload(function, args, None), **TASK)
        assert call.function(*call.args) == 42

    @pytest.mark.parametrize(
        ("args", "kwargs", "named"),
        [
            ((1, threading.Lock()), {}, "argument 2 (lock) of os.path.join"),
            (([1, [threading.Lock()]],), {}, "argument 1 (list) of"),
            ((1,), {"path": threading.Lock()}, "argument 'path' (lock) of"),
        ],
    )
    def test_an_argument_that_cannot_be_pickled_is_named(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], named: str
    ) -> None:
        message = refusal(self.serializer, os.path.join, *args, **kwargs)
        assert named.replace("os.path", os.path.__name__) in message
        assert message.endswith("TypeError: cannot pickle '_thread.lock' object")

    def test_an_error_tells_the_kind_of_the_reason_and_no_value(self) -> None:
        message = refusal(self.serializer, add, 1, Unpicklable(), password=SECRET)
        assert message == f"argument 2 (Unpicklable) of {__name__}.add cannot be written: ValueError"

    def test_a_function_that_cannot_be_pickled_is_named_with_the_remedy(self) -> None:
        lock = threading.Lock()
        message = refusal(self.serializer, lambda: lock)
        assert "the function" in message
        assert "<lambda>" in message
        assert "cannot pickle '_thread.lock' object" in message
        assert message.endswith("move both into a module that workers can import")

    def test_a_value_that_is_nested_too_deeply_is_refused(self) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        assert "argument 1 (list)" in refusal(self.serializer, add, deep)

    def test_a_return_value_that_cannot_be_pickled_is_refused(self) -> None:
        with pytest.raises(SerializationError, match=r"return value \(Unpicklable\) of task task-1") as caught:
            self.serializer.dump_result(Unpicklable(), **TASK)
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("junk", [b"", b"no pickle", b"\x80\x05", b"c__nowhere__\nf\n."])
    def test_bytes_that_are_no_pickle_are_told_apart_by_their_part(self, junk: bytes) -> None:
        good = self.serializer.dump_call(add, (1,), {"right": 2}, **TASK)
        assert "the function of task task-1" in unread(self.serializer, good._replace(function=junk))
        assert "the arguments of task task-1" in unread(self.serializer, good._replace(args=junk))
        assert "the keywords of task task-1" in unread(self.serializer, good._replace(kwargs=junk))
        with pytest.raises(DeserializationError, match="the return value of task task-1"):
            self.serializer.load_result(junk, **TASK)

    def test_pickles_of_something_else_are_refused(self) -> None:
        good = self.serializer.dump_call(add, (1,), {}, **TASK)
        assert "cannot be called" in unread(self.serializer, good._replace(function=pickle.dumps(5)))
        assert "no tuple" in unread(self.serializer, good._replace(args=pickle.dumps(5)))
        assert "no dict" in unread(self.serializer, good._replace(kwargs=pickle.dumps({1: 2})))

    def test_a_value_that_explodes_when_it_is_read_shows_nothing(self) -> None:
        payload = self.serializer.dump_call(add, (Chatty(),), {}, **TASK)
        assert unread(self.serializer, payload) == "the arguments of task task-1 cannot be read: RuntimeError"


class TestModulesThatChanged:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "passing_by.py"
        sys.modules.pop("passing_by", None)

    def written(self, serializer: Serializer, module: Path) -> Payload:
        module.write_text("def send(): return 'sent'\n")
        importlib.invalidate_caches()
        payload = serializer.dump_call(importlib.import_module(module.stem).send, (), {}, **TASK)
        del sys.modules[module.stem]
        return payload

    @both
    def test_a_module_that_is_gone_is_named(self, serializer: Serializer, module: Path) -> None:
        payload = self.written(serializer, module)
        module.unlink()
        importlib.invalidate_caches()
        assert unread(serializer, payload).endswith("ModuleNotFoundError: No module named 'passing_by'")

    @both
    def test_a_function_that_is_gone_is_named(self, serializer: Serializer, module: Path) -> None:
        payload = self.written(serializer, module)
        module.write_text("pass # another function lived here\n")
        importlib.invalidate_caches()
        assert "'send'" in unread(serializer, payload)

    @both
    def test_a_module_that_ends_the_program_only_fails_the_task(self, serializer: Serializer, module: Path) -> None:
        payload = self.written(serializer, module)
        module.write_text("raise SystemExit(1)  # a script without a guard\n")
        importlib.invalidate_caches()
        assert unread(serializer, payload).endswith("cannot be read: SystemExit")


class TestJSON:
    serializer = JSONSerializer()

    def test_the_bytes_are_readable(self) -> None:
        payload = self.serializer.dump_call(Account.twice, (1, "b"), {"c": [None]}, **TASK)
        assert payload == (f"{__name__}:Account.twice".encode(), b'[1,"b"]', b'{"c":[null]}')

    def test_a_tuple_inside_an_argument_arrives_as_a_list(self) -> None:
        assert trip(self.serializer, len, (1, 2)) == 2
        assert trip(self.serializer, list, ((1, 2), 3)) == [[1, 2], 3]

    @pytest.mark.parametrize(
        "function",
        [lambda: None, partial(add, 1), Account("x").check, threading.Lock().acquire],
        ids=["lambda", "partial", "bound method", "built-in bound method"],
    )
    def test_a_function_without_an_import_path_is_refused(self, function: Any) -> None:
        assert "import path" in refusal(self.serializer, function) or "is something else" in refusal(
            self.serializer, function
        )

    def test_a_local_function_is_refused(self) -> None:
        def local() -> None: ...

        assert "use a function at the top of a module" in refusal(self.serializer, local)

    def test_a_function_of_main_is_refused_with_advice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(add, "__module__", "__main__")
        assert "move it into a module" in refusal(self.serializer, add)

    def test_a_function_whose_name_means_another_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = add
        monkeypatch.setitem(globals(), "add", lambda: None)
        assert "is something else" in refusal(self.serializer, original)

    @pytest.mark.parametrize(
        ("args", "kwargs", "named"),
        [
            ((1, {2}), {}, "argument 2 (set)"),
            ((), {"path": Path(SECRET)}, "argument 'path'"),
            ((b"bytes",), {}, "argument 1 (bytes)"),
            (([{"a": {1: "b"}}],), {}, "argument 1 (list)"),
            ((float("nan"),), {}, "argument 1 (float)"),
        ],
    )
    def test_what_json_has_no_words_for_is_refused_by_name(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], named: str
    ) -> None:
        message = refusal(self.serializer, add, *args, **kwargs)
        assert message.startswith(named)
        assert f"of {__name__}.add cannot be written" in message

    def test_a_return_value_is_refused_like_an_argument(self) -> None:
        with pytest.raises(SerializationError, match=r"\(set\).*Object of type set is not JSON serializable"):
            self.serializer.dump_result({1}, **TASK)

    @pytest.mark.parametrize("path", [b"", b"json", b"json:", b":dumps", b"json:dumps.nothing", b"\xff", b"nowhere:f"])
    def test_an_import_path_that_leads_nowhere_cannot_be_read(self, path: bytes) -> None:
        assert "the function of task task-1" in unread(self.serializer, Payload(path, None, None))

    def test_json_of_something_else_is_refused(self) -> None:
        good = self.serializer.dump_call(add, (1,), {"right": 2}, **TASK)
        assert "no tuple" in unread(self.serializer, good._replace(args=b'{"a":1}'))
        assert "no dict" in unread(self.serializer, good._replace(kwargs=b"[1]"))
        assert "cannot be read" in unread(self.serializer, good._replace(args=f'["{SECRET}"'.encode()))
        assert "cannot be called" in unread(self.serializer, good._replace(function=b"math:pi"))


def test_a_function_that_was_replaced_in_its_module_is_loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    serializer = CloudpickleSerializer()
    payload = serializer.dump_call(textwrap.dedent, ("text",), {}, **TASK)
    known = textwrap.dedent
    for function in (known, known, textwrap.shorten, textwrap.shorten, known):
        monkeypatch.setattr(textwrap, "dedent", function)
        assert serializer.load_call(payload, **TASK).function is function


def test_functions_in_turn_are_not_mixed_up() -> None:
    serializer = CloudpickleSerializer()
    functions = [add, len, math.gcd, [1].count, [2, 2].count, textwrap.dedent, lambda: 1, lambda: 2] * 2
    payloads = [serializer.dump_call(function, (), {}, **TASK) for function in functions]
    loaded = [serializer.load_call(payload, **TASK).function for payload in payloads]
    assert [loaded[place] for place in (0, 1, 2, 5)] == [add, len, math.gcd, textwrap.dedent]
    assert [loaded[3](1), loaded[4](2), loaded[6](), loaded[7]()] == [1, 2, 1, 2]


def test_a_serializer_of_ones_own_needs_four_steps() -> None:
    class Reversed(ValueSerializer):
        def dump_function(self, function: Any) -> bytes:
            return cloudpickle.dumps(function)[::-1]

        def load_function(self, data: bytes) -> object:
            return pickle.loads(data[::-1])

        dump_value = dump_function
        load_value = load_function

    assert trip(Reversed(), add, 40, right=2) == 42
    assert "argument 1 (Unpicklable)" in refusal(Reversed(), add, Unpicklable())
    assert refusal(ValueSerializer(), add).endswith("NotImplementedError")
