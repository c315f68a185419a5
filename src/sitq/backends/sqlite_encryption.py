"""Encrypted SQLite files: SQLCipher's driver, keys, and what is said when a key and a file do not go together."""

from __future__ import annotations

import hashlib
import importlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import registry

from ..exceptions import (
    ConfigurationError,
    KeyMissingError,
    NotAvailableError,
    NotEncryptedError,
    WrongKeyError,
)
from ..options import check_choice
from ..secret import Secret

CIPHERS = ("AES-256",)
"""What SQLCipher encrypts with: AES-256 in CBC mode, each page with an HMAC-SHA512."""

DRIVER = "sqlcipher3.dbapi2"
SYNC_DRIVER, ASYNC_DRIVER = "sitq_sqlcipher", "sitq_aiosqlcipher"
"""SQLAlchemy's names of it, in a URL; the dialects are imported with the first engine that needs one."""

registry.register(f"sqlite.{SYNC_DRIVER}", f"{__package__}.sqlcipher", "SQLCipherDialect")
registry.register(f"sqlite.{ASYNC_DRIVER}", f"{__package__}.sqlcipher", "AsyncSQLCipherDialect")

PLAIN_HEADER = b"SQLite format 3\0"
SALT_LENGTH = 16  # an encrypted file begins with its salt, where a plain one has its header
ITERATIONS, KEY_LENGTH = 256_000, 32  # of SQLCipher 4
PAGE = 4096
NO_KEY = f"x'{bytes(KEY_LENGTH).hex()}'"
"""Stands for a key until the salt is known."""


class EncryptionKey:
    """A passphrase. The key of a file is derived from it once, since that takes a quarter of a second."""

    __slots__ = ("_derived", "_passphrase")

    def __init__(self, passphrase: Secret) -> None:
        self._passphrase = passphrase
        self._derived: dict[bytes, Secret] = {}

    def __repr__(self) -> str:
        return "EncryptionKey(...)"

    def reveal(self, salt: bytes) -> str:
        """The key of the file with this salt, in SQLCipher's words. Give it no name, as tracebacks show names."""
        if salt not in self._derived:  # two threads may do it at once; a lock could be held by nobody after a fork
            self._derived[salt] = Secret(
                hashlib.pbkdf2_hmac("sha512", self._passphrase.reveal(), salt, ITERATIONS, KEY_LENGTH)
            )
        return f"x'{self._derived[salt].reveal().hex()}{salt.hex()}'"

    def reveal_for_new(self) -> str:
        """The key for a file that is made now, with a salt of its own."""
        return self.reveal(os.urandom(SALT_LENGTH))


def check_key(option: str, value: object) -> EncryptionKey:
    """Return the key that a concealed text is; raise ``ConfigurationError`` for what is none."""
    if not isinstance(value, Secret) or not value.reveal():
        kind = "an empty text" if isinstance(value, Secret) else f"a {type(value).__name__}"
        raise ConfigurationError(f"{option} is not allowed to be {kind}: give a text that is not empty")
    load_driver()
    return EncryptionKey(value)


def check_cipher(value: object, *, encrypted: bool) -> None:
    """Require the name of a cipher that there is, and a key to go with it."""
    if value is None:
        return
    check_choice("cipher", value, CIPHERS, any_case=True)
    if not encrypted:
        raise ConfigurationError(f"cipher={value!r} is not allowed without encryption_key: give one, or leave both out")


def load_driver() -> Any:
    """Return SQLCipher's driver; raise ``NotAvailableError`` if it is not installed."""
    try:
        return importlib.import_module(DRIVER)
    except ImportError as error:
        raise NotAvailableError(
            "encryption_key needs SQLCipher, which is not installed: pip install '.[encryption]' in a checkout"
        ) from error


def connect_encrypted(uri: str, path: Path, key: EncryptionKey, timeout: float, *, found: bool) -> Any:
    """Open an encrypted file; ``found`` makes one of an empty or missing file.

    Raises a kind of ``EncryptionError``, and leaves the file as it is, if the key and the file do not go together.
    """
    tried: set[bytes | None] = set()
    while True:
        driver = open_locked(uri, timeout)
        try:
            salt = read_salt(driver, path)
            unlock(driver, key, salt, found=found)
            return driver
        except BaseException as error:
            driver.close()
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_NOTADB:
                raise
            # Somebody else may have made the file, or replaced it, since the salt was read.
            if salt in tried:
                raise unreadable_with_key(path) from error
            tried.add(salt)


def open_locked(uri: str, timeout: float = 5.0) -> Any:
    """Open a file with SQLCipher, and without a key as yet; keep SQLCipher from printing."""
    driver = load_driver().connect(uri, uri=True, timeout=timeout, check_same_thread=False, isolation_level=None)
    if driver.execute("PRAGMA cipher_version").fetchone() is None:
        driver.close()  # it would take the key and write plain text
        raise NotAvailableError("encryption_key needs SQLCipher, and the sqlcipher3 that is installed is without it")
    driver.execute("PRAGMA cipher_log_level=NONE").fetchall()
    return driver


def read_salt(driver: Any, path: Path) -> bytes | None:
    """The salt of an encrypted file, ``None`` of an empty one; raise ``NotEncryptedError`` for a plain one."""
    if path.stat().st_size == 0:
        return None
    # Whoever opens and closes the file without SQLite lets go of all locks that this process has on it.
    driver.set_key(NO_KEY)
    salt = bytes.fromhex(driver.execute("PRAGMA cipher_salt").fetchone()[0])
    if salt == PLAIN_HEADER:
        raise NotEncryptedError(
            f"the database {path} is not encrypted: open it without encryption_key, where rekey() encrypts it"
        )
    return salt


def unlock(driver: Any, key: EncryptionKey, salt: bytes | None, *, found: bool) -> None:
    """Give the key to a connection, and try it."""
    driver.set_key(key.reveal_for_new() if salt is None else key.reveal(salt))
    if salt is None and found:
        # Writes the salt, unless somebody else does first: then it raises that this is not a database.
        driver.execute("BEGIN IMMEDIATE")
        driver.execute("PRAGMA user_version=0")
        driver.execute("COMMIT")
    driver.execute("SELECT count(*) FROM sqlite_master").fetchone()


def unreadable_with_key(path: Path) -> WrongKeyError:
    """What is said of a file that cannot be read with the key that was given."""
    return WrongKeyError(
        f"the database {path} cannot be read with this encryption_key: the key is another one, "
        f"or the beginning of the file is damaged, or it is not a database"
    )


def unreadable_without_key(path: Path) -> KeyMissingError | None:
    """What is said of a file that seems to be encrypted; ``None`` for others."""
    if not seems_encrypted(path):
        return None
    return KeyMissingError(
        f"the database {path} is not an SQLite database, unless it is encrypted, as it seems: give its encryption_key"
    )


def seems_encrypted(path: Path) -> bool:
    """Whether a file is as random as an encrypted database, and made of pages."""
    try:
        with path.open("rb") as file:
            page = file.read(PAGE)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    return len(page) == PAGE and size % PAGE == 0 and len(set(page)) > 240
