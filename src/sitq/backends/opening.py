"""From a path or a URL to the backend for it."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL

from ..exceptions import ConfigurationError
from .base import BaseBackend
from .dialects import register, require_schemas
from .mariadb import MariaDBBackend
from .postgresql import PostgreSQLBackend
from .sources import check_url
from .sqlite import SQLiteBackend
from .sqlite_lent import check_no_query, dialect_for

register("sqlite", dialect_for)

NAMED = re.compile(r"([A-Za-z_]\w+(?:\.\w+)*):([A-Za-z_]\w*)")
"""A backend in a module; a drive's letter is no module."""

BACKENDS = {kind: backend for backend in (PostgreSQLBackend, MariaDBBackend) for kind in backend.kinds}


def open_backend(target: str | os.PathLike[str] | URL, **options: Any) -> BaseBackend:
    """Return the backend for a path or a URL. Nothing is opened yet.

    Args:
        target: a path of an SQLite file, ``":memory:"``, or a URL such as ``sqlite:///tasks.db`` or
            ``postgresql://user@host/database``.
        options: those of the backend's class.

    Raises:
        ConfigurationError: no backend is for this URL, or an option is not allowed.
        NotAvailableError: the URL's driver is not installed.
    """
    backend, database = find_backend(target)
    if backend is SQLiteBackend and "schema" in options:
        require_schemas("sqlite", options["schema"])
    return backend(database, **options)


def open_named(target: str) -> BaseBackend:
    """``open_backend``, or the backend that an app has made, named as ``module:name``."""
    return open_backend(target) if (name := NAMED.fullmatch(target)) is None else find_object(*name.groups())


def find_object(module: str, name: str) -> BaseBackend:
    """Import a backend, or what makes one when it is called."""
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{module}:{name} cannot be imported as a backend: {error}") from error
    backend = found if isinstance(found, BaseBackend) or not callable(found) else found()
    if not isinstance(backend, BaseBackend):
        raise ConfigurationError(f"{module}:{name} is a {type(backend).__name__}; name a backend, or what makes one")
    return backend


def open_to_look(target: str) -> BaseBackend:
    """``open_named`` for who only looks: no file is made, no schema is upgraded, unless by an app's own options."""
    if NAMED.fullmatch(target):
        return open_named(target)
    backend, database = find_backend(target)
    return backend(database, **({"readonly": True} if backend is SQLiteBackend else {"auto_upgrade": False}))


def find_backend(target: str | os.PathLike[str] | URL) -> tuple[Callable[..., BaseBackend], Any]:
    """Return the class that is for a path or a URL, and what it is to be given."""
    if not isinstance(target, URL) and (not isinstance(target, str) or "://" not in target):
        return SQLiteBackend, target
    url = check_url(target)
    kind = url.get_backend_name()
    if kind == "sqlite":
        return SQLiteBackend, check_no_query(url).database or ":memory:"
    if kind not in BACKENDS:
        raise ConfigurationError(f"there is no backend for {kind!r} URLs: give one of sqlite, {', '.join(BACKENDS)}")
    return BACKENDS[kind], url
