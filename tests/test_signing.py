"""Signed payloads: what nobody vouches for is refused before a byte of it is unpickled, and no error shows a key."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import pickle
import sqlite3
import traceback
from pathlib import Path
from typing import Any

import pytest

import sitq
from sitq import CloudpickleSerializer, JSONSerializer, SignatureError
from sitq.secret import Secret
from sitq.serialization import Payload

KEY, OLD_KEY = "the key of this year", "the key of last year"
SIGNER = CloudpickleSerializer(signing_keys={"2026": KEY, "2025": OLD_KEY})
LOADED: list[str] = []


class Spy:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return LOADED.append, ("loaded",)


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    LOADED.clear()


def call_of(task_id: str = "a", *args: Any, **kwargs: Any) -> Payload:
    return SIGNER.dump_call(divmod, args or (7, 2), kwargs, task_id=task_id)


def test_what_was_signed_is_loaded() -> None:
    call = SIGNER.load_call(SIGNER.dump_call(int, ("ff",), {"base": 16}, task_id="a"), task_id="a")
    assert call.function(*call.args, **call.kwargs) == 255
    assert SIGNER.load_result(SIGNER.dump_result([1, 2], task_id="a"), task_id="a") == [1, 2]


def test_a_call_without_arguments_is_signed_too() -> None:
    payload = SIGNER.dump_call(dict, (), {}, task_id="a")
    assert payload[1:] == (None, None)
    with pytest.raises(SignatureError):
        SIGNER.load_call(payload._replace(args=b""), task_id="a")
    assert SIGNER.load_call(payload, task_id="a").function is dict


@pytest.mark.parametrize("part", ["function", "args", "kwargs"])
def test_an_altered_part_is_refused_and_not_loaded(part: str) -> None:
    payload = SIGNER.dump_call(int, ("ff",), {"base": 16}, task_id="a")
    for altered in (pickle.dumps(Spy()), b"", getattr(payload, part) + b"x", getattr(payload, part)[:-1]):
        with pytest.raises(SignatureError):
            SIGNER.load_call(payload._replace(**{part: altered}), task_id="a")
    assert LOADED == []


def test_every_bit_of_a_signed_blob_counts() -> None:
    signed = SIGNER.dump_result("v", task_id="a")
    for position in range(len(signed)):
        altered = bytearray(signed)
        altered[position] ^= 1
        with pytest.raises(SignatureError):
            SIGNER.load_result(bytes(altered), task_id="a")
        with pytest.raises(SignatureError):
            SIGNER.load_result(signed[:position], task_id="a")


def test_what_is_not_signed_is_refused() -> None:
    unsigned = CloudpickleSerializer().dump_call(len, (Spy(),), {}, task_id="a")
    with pytest.raises(SignatureError, match="not signed"):
        SIGNER.load_call(unsigned, task_id="a")
    with pytest.raises(SignatureError, match="not signed"):
        SIGNER.load_result(pickle.dumps(Spy()), task_id="a")
    assert LOADED == []


def test_the_payload_of_another_task_is_refused() -> None:
    with pytest.raises(SignatureError, match="another task"):
        SIGNER.load_call(call_of("a"), task_id="b")
    with pytest.raises(SignatureError, match="another task"):
        SIGNER.load_result(SIGNER.dump_result(1, task_id="a"), task_id="b")


def test_parts_of_two_tasks_do_not_mix() -> None:
    first, second = call_of("a", 7, 2), call_of("a", 8, 3)
    with pytest.raises(SignatureError):
        SIGNER.load_call(first._replace(args=second.args), task_id="a")


def test_a_result_is_not_taken_for_a_call() -> None:
    result = SIGNER.dump_result(divmod, task_id="a")
    with pytest.raises(SignatureError):
        SIGNER.load_call(Payload(result, None, None), task_id="a")


def test_arguments_are_not_taken_for_keywords() -> None:
    payload = call_of()
    with pytest.raises(SignatureError):
        SIGNER.load_call(Payload(payload.function, payload.kwargs, payload.args), task_id="a")


def test_keys_are_rotated() -> None:
    last_year = CloudpickleSerializer(signing_keys={"2025": OLD_KEY})
    next_year = CloudpickleSerializer(signing_keys={"2027": "new", "2026": KEY})
    old = last_year.dump_result("old", task_id="a")
    new = SIGNER.dump_result("new", task_id="a")
    assert [SIGNER.load_result(each, task_id="a") for each in (old, new)] == ["old", "new"]
    assert next_year.load_result(new, task_id="a") == "new"
    with pytest.raises(SignatureError, match="2027, 2026"):
        next_year.load_result(old, task_id="a")


def test_the_name_of_a_key_is_vouched_for() -> None:
    """The same secret under two names: a header that names the other is no longer the one that was signed."""
    twins = CloudpickleSerializer(signing_keys={"one": KEY, "two": KEY})
    signed = twins.dump_result(1, task_id="a")
    with pytest.raises(SignatureError):
        twins.load_result(signed.replace(b"\x03one", b"\x03two"), task_id="a")


def test_signed_blobs_need_a_serializer_with_keys() -> None:
    with pytest.raises(SignatureError, match="signing_keys"):
        CloudpickleSerializer().load_call(call_of(), task_id="a")
    with pytest.raises(SignatureError, match="signing_keys"):
        CloudpickleSerializer().load_result(SIGNER.dump_result(1, task_id="a"), task_id="a")


def test_the_documented_format() -> None:
    """Built here by hand, from what docs/reference/blobs.md says."""

    def part(data: bytes | None) -> bytes:
        return b"\x00" if data is None else b"\x01" + len(data).to_bytes(8, "big") + data

    mark, function, args = b"sitq-signed\x01", pickle.dumps(divmod), pickle.dumps((7, 2))
    covered = mark + b"".join(map(part, (b"2026", b"call", b"by-hand", function, args, None)))
    mac = hmac.digest(KEY.encode(), covered, hashlib.sha256)
    payload = Payload(mark + b"\x04" + b"2026" + mac + function, args, None)
    assert SIGNER.load_call(payload, task_id="by-hand").args == (7, 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "an empty dict"),
        ("my-secret", "a str"),
        (["my-secret"], "a list"),
        ({"2026": ""}, r"signing_keys\['2026'\]"),
        ({"2026": None}, r"signing_keys\['2026'\]"),
        ({"2026": 5}, r"signing_keys\['2026'\]"),
        ({"": "my-secret"}, "a name in signing_keys"),
        ({"my-secret" * 30: "x"}, "a name in signing_keys"),
        ({"my-secret\n": "x"}, "a name in signing_keys"),
        ({5: "my-secret"}, "a name in signing_keys"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys: Any, message: str) -> None:
    with pytest.raises(sitq.ConfigurationError, match=message) as caught:
        CloudpickleSerializer(signing_keys=keys)
    assert "my-secret" not in str(caught.value)


def test_no_error_shows_a_key() -> None:
    payload = call_of()
    for faulty in (
        payload._replace(args=b"x"),
        payload._replace(function=b"x"),
        payload._replace(function=KEY.encode()),
    ):
        with pytest.raises(SignatureError) as caught:
            SIGNER.load_call(faulty, task_id="a")
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert KEY not in shown.split("faulty =")[0]
        assert OLD_KEY not in shown
    assert KEY not in repr(vars(SIGNER)) + repr(SIGNER)


def test_a_secret_gives_itself_away_to_nobody() -> None:
    secret = Secret(KEY)
    assert KEY not in f"{secret} {secret!r} {[secret]} {secret:}"
    assert secret.reveal() == KEY.encode()
    for leak in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not pickled"):
            leak(secret)


def test_a_worker_runs_what_is_signed_and_fails_what_is_not(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"

    async def main() -> None:
        async with sitq.SQLiteBackend(path) as backend:
            queue, forger = sitq.TaskQueue(backend, serializer=SIGNER), sitq.TaskQueue(backend)
            good, altered = await queue.enqueue(divmod, 7, 2), await queue.enqueue(divmod, 7, 2)
            forged = await forger.enqueue(LOADED.append, "forged")
            connection = sqlite3.connect(path)
            with connection:
                connection.execute("UPDATE tasks SET args = ? WHERE id = ?", (pickle.dumps((Spy(), 1)), altered))
            connection.close()
            async with sitq.Worker(backend, serializer=SIGNER):
                assert await queue.result(good, timeout=30) == (3, 1)
                for refused in (altered, forged):
                    with pytest.raises(sitq.TaskFailedError) as caught:
                        await queue.result(refused, timeout=30)
                    assert caught.value.error_type == "sitq.exceptions.SignatureError"
            result = await backend.aget_result(good)
            assert result is not None
            with pytest.raises(SignatureError, match="another task"):
                SIGNER.load_result(result.value or b"", task_id=altered)

    asyncio.run(main())
    assert LOADED == []


def test_json_takes_no_keys() -> None:
    with pytest.raises(TypeError):
        JSONSerializer(signing_keys={"2026": KEY})  # type: ignore[call-arg]  # the point of the test
