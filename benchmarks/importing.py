"""What it takes to import sitq, and to a first enqueue: ``python -m benchmarks.importing [--rounds N] [--write]``.

Beside it the peers that are installed. Each program runs in fresh processes, the programs in turn, and the median
counts: milliseconds until the process has ended, and of a processor, which others on the machine disturb less.
``--write`` puts the table into ``docs/explanation/performance.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import sitq

from . import report

INSERT = """
import sqlalchemy, sys
engine = sqlalchemy.create_engine("sqlite:///" + sys.argv[1])
with engine.begin() as connection:
    connection.execute(sqlalchemy.text("INSERT INTO by_hand VALUES ('four')"))
engine.dispose()
"""

ENQUEUE = """
import os.path, sitq, sys
with sitq.SQLiteBackend(sys.argv[1]) as backend:
    sitq.SyncTaskQueue(backend).enqueue(os.path.basename, "four")
"""

PROGRAMS = {
    "nothing": "pass",
    "`import sqlalchemy`": "import sqlalchemy",
    "`import sqlalchemy.orm`": "import sqlalchemy.orm",
    "`import sqlalchemy.ext.asyncio`, which imports both": "import sqlalchemy.ext.asyncio",
    "`import sitq`, which imports all three": "import sitq",
    "one INSERT into an SQLite file, with SQLAlchemy": INSERT,
    "one enqueue into an SQLite file": ENQUEUE,
}
NOTHING, _, _, WHAT_SITQ_NEEDS, *_ = PROGRAMS

PEERS = ("huey", "taskito", "honker", "pgqueuer", "procrastinate", "oban")
PROGRAMS |= {f"`import {peer}`": f"import {peer}" for peer in PEERS if importlib.util.find_spec(peer)}


class Times(NamedTuple):
    """Milliseconds of one process: until it had ended, and of a processor."""

    elapsed: float
    processor: float


def main() -> None:
    """Measure, print a table, and write it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.importing")
    parser.add_argument("--rounds", type=int, default=20, help="how often each program is run (default 20)")
    parser.add_argument("--write", action="store_true", help=f"write {report.PAGE.name}")
    options = parser.parse_args()
    text = f"{report.when()}, {options.rounds} rounds\n\n{table(measure(options.rounds))}"
    print(text)
    if options.write:
        report.write_between(report.PAGE, "importing", text)


def measure(rounds: int) -> dict[str, Times]:
    """Run the programs in turn; return the middle of the times of each."""
    taken: dict[str, list[Times]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tasks.db")
        set_up(file)
        for number in range(rounds + 1):
            for name, program in PROGRAMS.items():
                times = timed(program, file)
                if number:  # in the first round, modules are compiled and read from the disk
                    taken[name].append(times)
    return {name: Times(*(median(each) for each in zip(*times, strict=True))) for name, times in taken.items()}


def set_up(file: Path) -> None:
    """Make the tables."""
    with sitq.SQLiteBackend(file) as backend, backend.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE by_hand (value TEXT)")


def timed(program: str, file: Path) -> Times:
    """Run a program in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, str(file)], env=keeping_bytecode(file.parent))
    _, status, used = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return Times(elapsed * 1000, (used.ru_utime + used.ru_stime) * 1000)


def keeping_bytecode(folder: Path) -> dict[str, str]:
    """An environment in which Python compiles each module once, whatever this process was told."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def table(times: dict[str, Times]) -> str:
    """The times as Markdown, and how much each is of what sitq needs, without Python's own."""
    nothing, needed = times[NOTHING].processor, times[WHAT_SITQ_NEEDS].processor
    lines = ["| Python does | ms | ms of a processor | of SQLAlchemy with asyncio |", "|---|---|---|---|"]
    for name, (elapsed, processor) in times.items():
        share = "" if name == NOTHING else f"{(processor - nothing) / (needed - nothing):.2f}"
        lines.append(f"| {name} | {elapsed:.0f} | {processor:.0f} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
