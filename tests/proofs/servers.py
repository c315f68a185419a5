"""Servers of our own, which a run may stop and start; they end with the block, and leave nothing."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import URL, make_url

from databases import OwnPostgreSQL, answers, execute_alone

PATIENCE = 60.0  # seconds


class OwnServer(Protocol):
    """A server that is nobody else's."""

    url: URL

    def stop(self) -> None:
        """Stop it."""

    def start(self) -> None:
        """Start it, and return when it answers."""


@contextmanager
def own_server(kind: str) -> Iterator[OwnServer]:
    """Start a server of this kind; skip where its program is not at hand."""
    if kind == "postgresql":
        server = OwnPostgreSQL()
        try:
            yield server
        finally:
            server.server.cleanup()
    else:
        with tempfile.TemporaryDirectory(prefix="sitq-mariadb-") as folder:
            own = OwnMariaDB(Path(folder))
            try:
                yield own
            finally:
                own.stop()


def new_database(server: OwnServer) -> URL:
    """Make an empty database on a server."""
    name = f"sitq_test_{uuid.uuid4().hex[:12]}"
    execute_alone(server.url, f"CREATE DATABASE {name}")
    return server.url.set(database=name)


class OwnMariaDB:
    """A ``mariadbd`` with a folder and a port of its own."""

    def __init__(self, folder: Path) -> None:
        program, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
        if program is None or install is None:
            pytest.skip("NOT TESTED ON mariadb: mariadbd is not installed")
        made = [install, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal"]
        subprocess.run([*made, "--skip-test-db"], check=True, capture_output=True)
        port = free_port()
        self._command = [
            program,
            "--no-defaults",
            "--user=root",
            f"--datadir={folder / 'data'}",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            "--innodb-buffer-pool-size=32M",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = make_url(f"mariadb+pymysql://root@127.0.0.1:{port}")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + PATIENCE
        while not answers(self.url):
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("mariadbd does not start")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
