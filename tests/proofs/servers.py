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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

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
def own_database(kind: str) -> Iterator[tuple[URL, OwnServer]]:
    """Start a server of this kind, and give an empty database on it; skip where its program is not at hand."""
    with own_server(kind) as server:
        name = new_name()
        execute_alone(server.url, f"CREATE DATABASE {name}")
        yield server.url.set(database=name), server


@contextmanager
def database_on_small_disk(kind: str) -> Iterator[tuple[URL, SmallDisk]]:
    """A database on a server of ours whose tables are on a disk that can be filled."""
    with small_disk() as folder, own_server(kind, folder) as server:
        placed = ""
        if kind == "postgresql":
            shutil.chown(folder, server.server.system_user)
            execute_alone(server.url, f"CREATE TABLESPACE small LOCATION '{folder}'")
            placed = "TABLESPACE small"
        execute_alone(server.url, f"CREATE DATABASE sitq {placed}")
        yield server.url.set(database="sitq"), SmallDisk(folder, server)


class SmallDisk:
    """The disk of a server."""

    def __init__(self, folder: Path, server: OwnServer) -> None:
        self._ballast = folder / "ballast"
        self._server = server

    def fill(self) -> None:
        """Leave no room. A ``mariadbd`` does not outlive it."""
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def clear(self) -> None:
        """Make room again, and let the server run."""
        self._ballast.unlink()
        self._server.start()


@contextmanager
def own_server(kind: str, disk: Path | None = None) -> Iterator[Any]:
    """Start a server; a ``mariadbd`` has all its files on the disk."""
    if kind == "postgresql":
        server = OwnPostgreSQL()
        try:
            yield server
        finally:
            server.server.cleanup()
    else:
        with tempfile.TemporaryDirectory(prefix="sitq-mariadb-") as folder:
            own = OwnMariaDB(disk or Path(folder))
            try:
                yield own
            finally:
                own.stop()


@contextmanager
def small_disk() -> Iterator[Path]:
    """A disk of 200 MB."""
    with tempfile.TemporaryDirectory(prefix="sitq-disk-") as name:
        mounting = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", name]
        if subprocess.run(mounting, capture_output=True, check=False).returncode:
            pytest.skip("this process may not mount a small disk")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def new_name() -> str:
    return f"sitq_test_{uuid.uuid4().hex[:12]}"


class OwnMariaDB:
    """A ``mariadbd`` with a folder and a port of its own."""

    def __init__(self, folder: Path) -> None:
        program, install = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
        if program is None or install is None:
            pytest.skip("NOT TESTED ON mariadb: mariadbd is not installed")
        data = folder / "data"
        made = [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run([*made, "--skip-test-db"], check=True, capture_output=True)
        port = free_port()
        self._command = [
            program,
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
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
        if self._process is not None and self._process.poll() is None and answers(self.url):
            return
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
