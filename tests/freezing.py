"""Processes that are stopped as by SIGSTOP, but never in the middle of a transaction.

One that is stopped there keeps its locks, on SQLite the lock of the whole database, and everybody waits for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import Any

PATIENCE = 60.0  # seconds


def freeze_here(backend: Any) -> None:
    """Stop this process, as soon as it commits nothing, until ``thaw``."""
    with backend._database._writer._committing:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.5)  # the signal may reach another thread first


def freeze_on_signal(backend: Any) -> None:
    """Let ``freeze`` stop this process."""
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=freeze_here, args=(backend,)).start())


def freeze(process: subprocess.Popen[Any]) -> None:
    """Stop a process, and return when it stands still."""
    process.send_signal(signal.SIGUSR1)
    give_up = time.monotonic() + PATIENCE
    while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is None:
        assert time.monotonic() < give_up
        time.sleep(0.005)


def thaw(process: subprocess.Popen[Any]) -> None:
    """Let it go on."""
    process.send_signal(signal.SIGCONT)
