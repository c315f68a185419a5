"""Datagrams between the processes that have an SQLite file open, by which it tells what was committed.

Whoever waits for news hangs a socket into a folder beside the file; whoever commits some sends one datagram to each
socket that he finds. A look whether the folder has changed is all that a commit costs while nobody else waits.
Nothing depends on it: where there are no such sockets, as on Windows and network disks, waiters poll.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
import weakref
from collections.abc import Collection, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from ..ids import new_id
from ..listening import CannotListen, Listener
from ..presence import is_forgotten, remove, this_machine
from ..wakeups import Wakeups

SOCKET = ".socket"
SEPARATOR = "\0"

LONGEST_ADDRESS = 100
"""Bytes of a socket's path; where it is longer, the way leads through a descriptor of its folder."""

LONGEST_MESSAGE = 4096
"""Bytes; where the topics are more, they are not named."""

REST = 0.002
"""Seconds between two hearings at least, so that a busy process is not woken by each commit of another."""

SHORTEST_QUEUE = 10
"""As many datagrams wait in a socket at least before others are dropped."""

SETTLED = 50_000_000
"""Nanoseconds after which another change of a folder has another time, on a file system with coarse times."""

TRIES = 3
"""How often a socket is hung up, if others remove the empty folder meanwhile."""


def listener_beside(database: str | os.PathLike[str], wakeups: Wakeups) -> Listener | None:
    """What hears and tells of this file, or ``None`` where there are no sockets with a path."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    neighbours = Neighbours(database)
    return Listener(lambda: SocketEar(neighbours), wakeups, tell=neighbours.tell)


class Listing(NamedTuple):
    """The sockets of others, and when the folder was changed that they were found in; ``None`` is to be looked at."""

    changed: int | None
    names: tuple[str, ...]


class Neighbours:
    """The other processes that wait for news of a file."""

    def __init__(self, database: str | os.PathLike[str]) -> None:
        self._database = database
        self._listing = Listing(None, ())
        self._speaking: socket.socket | None = None
        self.own: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where the sockets are."""
        return Path(self._folder)

    @cached_property
    def _folder(self) -> str:
        return f"{os.path.realpath(self._database)}-listeners"

    def tell(self, topics: Collection[str]) -> None:
        """Send the topics to everybody else, all of them if there are none; raises nothing."""
        names = self._others()
        if names:
            message = SEPARATOR.join(topics).encode()
            for name in names:
                self._send(name, message if len(message) <= LONGEST_MESSAGE else b"", alone=len(names) == 1)

    def _others(self) -> tuple[str, ...]:
        try:
            changed = os.stat(self._folder).st_mtime_ns  # noqa: PTH116  # for each commit, so it counts
            listing = self._listing
            if listing.changed != changed:
                names = [each.name for each in self.folder.glob(f"*{suffix()}") if each.name not in self.own]
                settled = time.time_ns() - changed > SETTLED
                self._listing = listing = Listing(changed if settled else None, tuple(names))
        except OSError:
            return ()
        return listing.names

    def _send(self, name: str, message: bytes, *, alone: bool) -> None:
        try:
            self._send_over(self._speaking or self._open(), name, message)
        except BlockingIOError:  # his queue is full, so that he looks at everything
            if not alone:  # or ours is, for somebody who does not take what was sent
                self._send_over_another(name, message)
        except ConnectionRefusedError:  # his process has died
            remove(self.folder / name)
        except OSError:
            return

    def _send_over(self, speaking: socket.socket, name: str, message: bytes) -> None:
        with addressed(self.folder, name) as address:
            speaking.sendto(message, address)

    def _send_over_another(self, name: str, message: bytes) -> None:
        with contextlib.suppress(OSError), make_socket() as speaking:
            self._send_over(speaking, name, message)

    def _open(self) -> socket.socket:
        self._speaking = speaking = make_socket()
        weakref.finalize(self, speaking.close)
        return speaking


class SocketEar:
    """A socket in the folder, for as long as this process waits for news."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._name = f"{new_id()}{suffix()}"
        self._socket = make_socket()
        self._arriving = select.poll()
        self._arriving.register(self._socket, select.POLLIN)
        self._heard_at = 0.0
        neighbours.own.add(self._name)
        # A process that ends without closing leaves no socket behind either.
        self._take_down = weakref.finalize(self, take_down, neighbours.folder / self._name, os.getpid())
        try:
            self._hang_up()
        except OSError as error:
            self.close()
            raise CannotListen(str(error)) from error

    def _hang_up(self) -> None:
        folder = self._neighbours.folder
        for tried in range(1, TRIES + 1):
            try:
                folder.mkdir(exist_ok=True)
                with addressed(folder, self._name) as address:
                    self._socket.bind(address)
            except FileNotFoundError:
                if tried == TRIES:
                    raise
            else:
                break
        (folder / self._name).chmod(0o666)  # whoever may write to the file may tell of it
        for other in folder.glob(f"*{SOCKET}"):
            if not other.name.endswith(suffix()) and is_forgotten(other):
                remove(other)

    def wait(self, timeout: float) -> Collection[str] | None:
        """Return the topics of which others have told, as soon as there are any; ``None`` stands for all."""
        if (rest := self._heard_at + REST - time.monotonic()) > 0:
            time.sleep(rest)
        if not self._arriving.poll(timeout * 1000):
            (self._neighbours.folder / self._name).lstat()  # if somebody took it away, it is to be hung up anew
            return ()
        messages = list(self._waiting())
        self._heard_at = time.monotonic()
        if b"" in messages or len(messages) >= SHORTEST_QUEUE:
            return None
        return {topic for message in messages for topic in message.decode(errors="replace").split(SEPARATOR)}

    def _waiting(self) -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield self._socket.recv(LONGEST_MESSAGE)

    def rouse(self) -> None:
        """Let a wait end, by a word to itself."""
        with (
            contextlib.suppress(OSError),
            make_socket() as speaking,
            addressed(self._neighbours.folder, self._name) as address,
        ):
            speaking.sendto(SEPARATOR.encode(), address)

    def close(self) -> None:
        """Take the socket down."""
        self._socket.close()
        self._take_down()
        self._neighbours.own.discard(self._name)


@cache
def suffix() -> str:
    """What the names of sockets end with that can be reached from this system, until it is started anew."""
    return f".{this_machine()}{SOCKET}"


def make_socket() -> socket.socket:
    """A socket for datagrams, which does not wait."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


@contextlib.contextmanager
def addressed(folder: Path, name: str) -> Iterator[str]:
    """Give the address of a socket in a folder, however deep that is."""
    path = f"{folder}/{name}"
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield path
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def take_down(path: Path, process: int) -> None:
    """Remove a socket, and the folder after the last one; a forked child leaves its parent's alone."""
    if os.getpid() == process:
        remove(path)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
