r"""Signatures of stored bytes: who has no key can neither write a task that is run, nor alter or swap one.

A signed BLOB is a header and the bytes that were signed::

    b"sitq-signed\x01"  one byte n  n bytes  32 bytes                    the rest
    a mark and version  length      key's name in UTF-8  HMAC-SHA256    what the serializer wrote

A task's signature stands before its function and covers the function, the arguments and the keywords; a
result's stands before its value. Both cover the task's id and the key's name, so that neither can be moved.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

from .exceptions import ConfigurationError, SignatureError
from .secret import Secret

MARK: Final = b"sitq-signed\x01"
MAC_LENGTH: Final = 32
LONGEST_NAME: Final = 255  # in bytes: its length is one byte
CALL: Final = b"call"
RESULT: Final = b"result"


class Signer:
    """Signs with the first of its keys, and accepts the signature of each.

    Args:
        keys: secrets by name. To rotate, put a new one first and drop the old when nothing bears its signature.
    """

    def __init__(self, keys: Mapping[str, str | bytes]) -> None:
        self._secrets = check_keys(keys)
        self._first = next(iter(self._secrets))

    def sign(self, kind: bytes, task_id: str, body: bytes, rest: Iterable[bytes | None] = ()) -> bytes:
        """Return ``body`` with a header that vouches for it and for the ``rest``."""
        name = self._first.encode()
        return MARK + bytes([len(name)]) + name + self._mac(self._first, kind, task_id, (body, *rest)) + body

    def verify(self, kind: bytes, task_id: str, signed: bytes, rest: Iterable[bytes | None] = ()) -> bytes:
        """Return the body behind the header; raise ``SignatureError`` unless one of the keys signed all of this."""
        what = f"the {kind.decode()} of task {task_id}"
        if not is_signed(signed):
            raise SignatureError(f"{what} is not signed, and only signed ones are loaded here")
        name, mac, body = split(signed)
        if name not in self._secrets:
            raise SignatureError(
                f"{what} is signed with a key that is not among those given here: {', '.join(self._secrets)}"
            )
        if not hmac.compare_digest(mac, self._mac(name, kind, task_id, (body, *rest))):
            raise SignatureError(f"{what} is not what was signed: it was altered, or written for another task")
        return body

    def _mac(self, name: str, kind: bytes, task_id: str, parts: Iterable[bytes | None]) -> bytes:
        mac = hmac.new(self._secrets[name].reveal(), MARK, hashlib.sha256)
        for part in (name.encode(), kind, task_id.encode(), *parts):
            mac.update(measured(part))
        return mac.digest()


def measured(part: bytes | None) -> bytes:
    """A part with its length before it, so that no two lists of parts read alike; no part is not an empty one."""
    return b"\x00" if part is None else b"\x01" + len(part).to_bytes(8, "big") + part


def is_signed(data: bytes) -> bool:
    """Whether the bytes begin as signed ones do."""
    # SQLite keeps texts in BLOB columns too.
    return isinstance(data, bytes) and data.startswith(MARK)


def split(signed: bytes) -> tuple[str, bytes, bytes]:
    """The name of the key, the signature and the body; what is cut short gives parts that no key vouches for."""
    start = len(MARK) + 1
    end = start + signed[len(MARK)] if len(signed) >= start else start
    body = end + MAC_LENGTH
    return signed[start:end].decode(errors="replace"), signed[end:body], signed[body:]


def check_keys(keys: object) -> dict[str, Secret]:
    """Return the secrets by name; raise ``ConfigurationError``, which shows no key, for what is not such a mapping."""
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigurationError(f"signing_keys is not allowed to be {kind_of(keys)}: give a dict of names and keys")
    return {check_name(name): check_key(name, key) for name, key in keys.items()}


def check_name(name: object) -> str:
    """Return a key's name."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) <= LONGEST_NAME:
        # Not shown, since a name and its key are easily swapped.
        raise ConfigurationError(
            f"a name in signing_keys is not allowed: give a printable text of 1 to {LONGEST_NAME} bytes"
        )
    return name


def check_key(name: str, key: object) -> Secret:
    """Return a key as a secret."""
    if not isinstance(key, str | bytes) or not key:
        raise ConfigurationError(f"signing_keys[{name!r}] is not allowed to be {kind_of(key)}: give a text or bytes")
    return Secret(key)


def kind_of(value: object) -> str:
    """What a value is, without the value."""
    return f"an empty {type(value).__name__}" if not value and value is not None else f"a {type(value).__name__}"
