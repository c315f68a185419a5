"""The example apps as their readers start them: commands in the folder of each, and requests over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE = 90.0  # seconds; nothing takes so long unless it is broken


class Shop:
    """One of the example apps, on a database and with a mail server of the test's.

    Args:
        name: of its folder.
        folder: where the output of its processes is kept.
        database: its URL.
        smtp_port: of the mail server on this machine.
    """

    def __init__(self, name: str, folder: Path, database: str, smtp_port: int) -> None:
        self.place = EXAMPLES / name
        self.folder = folder
        settings = {"DATABASE_URL": database, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(smtp_port)}
        self.environment = os.environ | settings | {"PYTHONUNBUFFERED": "1"}

    def run(self, *arguments: str) -> str:
        """Run a command to its end; ``arguments`` are what follows ``python``."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    @contextmanager
    def started(self, name: str, *arguments: str) -> Iterator[Callable[[], str]]:
        """Run a command until the block ends; what is given returns what it has printed so far, while it runs."""
        output = self.folder / f"{name}.log"
        with (
            output.open("wb") as file,
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.place,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            ) as process,
        ):

            def printed() -> str:
                assert process.poll() is None, f"{name} has ended: {output.read_text()}"
                return output.read_text()

            try:
                yield printed
            finally:
                end(process)
                print(f"--- {name}\n{output.read_text()}")

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[str]:
        """Run a web server on a port that it chooses; give the address that it prints."""
        with self.started("server", *arguments) as printed:
            yield until(lambda: re.search(r"http://127\.0\.0\.1:[1-9]\d*", printed())).group()


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


def until(found: Callable[[], Any]) -> Any:
    """Look again and again until there is something; return it."""
    deadline = time.monotonic() + PATIENCE
    while not (something := found()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return something


def request(url: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, Any]:
    """Send a request; return the status, and what the answer says if it is JSON."""
    try:
        asked = urllib.request.Request(url, data, {"Content-Type": kind})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            error.read()
            return error.code, None


def post_json(url: str, **fields: object) -> tuple[int, Any]:
    return request(url, json.dumps(fields).encode())


def post_form(url: str, **fields: object) -> tuple[int, Any]:
    return request(url, urlencode(fields).encode(), "application/x-www-form-urlencoded")
