"""Whether two engines lead to the same database."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from sqlalchemy import URL, Engine

from .sources import EngineSource

PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
ONE_NAME = {"mariadb": "mysql"}
HERE = (None, "", "localhost", "127.0.0.1", "::1")


def leads_to(source: EngineSource, engine: Engine, address: Callable[[URL], Hashable | None]) -> bool:
    """Whether an engine leads to the database that ``source`` gives engines for: it is the lent one, or says so.

    Args:
        source: gives engines.
        engine: another engine.
        address: what tells one database of this kind from another; ``None`` where a URL does not.
    """
    lent, own = source.lent, address(source.url)
    return (lent is not None and lent.pool is engine.pool) or (own is not None and own == address(engine.url))


def server_address(url: URL) -> Hashable | None:
    """The server and the database that a URL names, whatever the driver and the user."""
    kind = url.get_backend_name()
    if "service" in url.query or kind not in PORTS:
        return ONE_NAME.get(kind, kind), url.query.get("service"), url.database
    host = url.host or url.query.get("host") or url.query.get("unix_socket")
    here = host in HERE or (isinstance(host, str) and host.startswith("/"))
    port = int(str(url.port or url.query.get("port") or PORTS[kind]))
    return ONE_NAME.get(kind, kind), None if here else host, port, url.database or url.username
