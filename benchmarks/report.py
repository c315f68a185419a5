"""What was measured, as tables and as a plot; and whether the goals were reached."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .contest import ROOT, Figure
from .contestants import load

PAGE = ROOT / "docs/explanation/performance.md"

HEADINGS = {
    "one": "enqueue one by one",
    "concurrent": "from 100 coroutines",
    "bulk": "enqueue 10,000 in bulk",
    "drain": "drain, 1 process",
    "drain_2": "2 processes",
    "drain_async": "drain async, 1 process",
    "drain_async_2": "2 processes",
    "drain_work": "drain 1 ms of work, 1 process",
    "drain_work_2": "2 processes",
}

Rates = dict[tuple[str, str], float]


class Goal(NamedTuple):
    """A ratio that is to be reached: what of whom, beside what of whom; ``None`` where it is shown for comparison."""

    what: str
    of: str
    beside: str
    beside_of: str
    at_least: float | None


GOALS = {
    "sqlite": (
        # What the goals in tasks a second are of the driver by hand, on the machine for which they were set.
        Goal("one", "sitq_sqlite", "one", "by_hand_sqlite", 0.36),
        Goal("bulk", "sitq_sqlite", "bulk", "by_hand_sqlite", 0.22),
        Goal("drain_async", "sitq_sqlite", "drain", "by_hand_sqlite", 0.21),
        Goal("drain", "sitq_sqlite", "drain", "by_hand_sqlite", 0.13),
        Goal("one", "sitq_sqlite", "one", "huey_sqlite_full", 3.0),
        Goal("one", "sitq_sqlite", "one", "huey_sqlite", None),
        Goal("one", "sitq_sqlite", "one", "taskito_sqlite", 1.0),
        Goal("one", "sitq_sqlite", "one", "honker_sqlite", 1.0),
        Goal("drain", "sitq_sqlite", "drain", "honker_sqlite", 1.0),
        Goal("concurrent", "sitq_sqlite", "one", "by_hand_sqlite", 0.6),
        Goal("bulk", "sitq_sqlite", "bulk", "litequeue_sqlite", 1.2),
        Goal("drain_async", "sitq_sqlite", "drain", "huey_sqlite_full", 8.0),
        Goal("drain_async", "sitq_sqlite", "drain", "huey_sqlite", None),
        Goal("drain_async", "sitq_sqlite", "drain", "by_hand_core", 0.35),
        Goal("drain", "sitq_sqlite", "drain", "by_hand_core", 0.2),
        Goal("drain_2", "sitq_sqlite", "drain", "sitq_sqlite", 1.0),
        Goal("drain_async_2", "sitq_sqlite", "drain_async", "sitq_sqlite", 1.0),
        Goal("drain_work_2", "sitq_sqlite", "drain_work", "sitq_sqlite", 1.3),
    ),
    "postgresql": (
        Goal("one", "sitq_postgresql", "one", "by_hand_psycopg", 0.8),
        Goal("bulk", "sitq_postgresql", "bulk", "pgqueuer_postgresql", 1.2),
        Goal("drain_async", "sitq_postgresql", "drain", "pgqueuer_postgresql", 1.1),
        Goal("drain_async_2", "sitq_postgresql", "drain_2", "pgqueuer_postgresql", 1.1),
        Goal("one", "sitq_postgresql", "one", "oban_postgresql", 1.0),
        Goal("bulk", "sitq_postgresql", "bulk", "oban_postgresql", 1.0),
        Goal("drain_async", "sitq_postgresql", "drain", "oban_postgresql", 1.0),
        Goal("drain_async_2", "sitq_postgresql", "drain_2", "oban_postgresql", 1.0),
    ),
}


def medians(figures: Iterable[Figure]) -> Rates:
    """The middle of several rounds."""
    rates: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for figure in figures:
        rates[figure.contestant, figure.what].append(figure.rate)
    return {key: median(values) for key, values in rates.items()}


def table(names: Sequence[str], rates: Rates) -> str:
    """Tasks a second, as Markdown."""
    columns = [what for what in HEADINGS if any((name, what) in rates for name in names)]
    lines = [
        f"| tasks a second | durability | {' | '.join(HEADINGS[what] for what in columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in names:
        cells = [f"{rates[name, what]:,.0f}" if (name, what) in rates else "-" for what in columns]
        lines.append(f"| {load(name).title} | {load(name).durability} | {' | '.join(cells)} |")
    return "\n".join(lines)


def goals(kind: str, rates: Rates) -> str:
    """Each goal, what was measured, and whether it was reached, as Markdown."""
    lines = ["| sitq | beside | goal | measured | |", "|---|---|---|---|---|"]
    for goal in GOALS[kind]:
        mine, other = (goal.of, goal.what), (goal.beside_of, goal.beside)
        if mine in rates and other in rates:
            ratio = rates[mine] / rates[other]
            beside = f"{load(goal.beside_of).title}, {described(goal.beside)}"
            lines.append(f"| {described(goal.what)} | {beside} | {judged(goal.at_least, ratio)} |")
    return "\n".join(lines)


def judged(at_least: float | None, ratio: float) -> str:
    """The last three cells of a goal's row."""
    if at_least is None:
        return f"- | {ratio:.2f} | "
    return f"{at_least:g} | {ratio:.2f} | {'reached' if ratio >= at_least else '**missed**'}"


def described(what: str) -> str:
    """What was measured, in full."""
    first, _, second = what.partition("_2")
    return HEADINGS[first] if what == first else f"{HEADINGS[first].partition(',')[0]}, 2 processes{second}"


def plot(kind: str, names: Sequence[str], rates: Rates, file: Path) -> None:
    """Bars, by a logarithmic scale, since the fastest are hundreds of times as fast as the slowest."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [what for what in ("one", "bulk", "drain", "drain_async") if any((name, what) in rates for name in names)]
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 0.45 * len(names) + 1.4), sharey=True)
    for axis, what in zip(axes, shown, strict=True):
        values = [rates.get((name, what), 0.0) for name in names]
        colours = ["#2563eb" if name.startswith("sitq") else "#94a3b8" for name in names]
        axis.barh([load(name).title for name in names], values, color=colours)
        axis.set_xscale("symlog", linthresh=100)
        axis.set_title(f"{HEADINGS[what]}\n(tasks/s)", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle({"sqlite": "SQLite", "postgresql": "PostgreSQL"}[kind])
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def when() -> str:
    """The day and the machine."""
    cores = os.cpu_count()
    versions = f"Python {platform.python_version()}" + (", uvloop installed" if find_spec("uvloop") else "")
    return f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores, {platform.system()}, {versions}"


def write_between(page: Path, name: str, text: str) -> None:
    """Put text between the marks of this name in a page."""
    before, _, rest = page.read_text().partition(f"<!-- {name} -->\n")
    after = rest.partition(f"<!-- /{name} -->")[2]
    page.write_text(f"{before}<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->{after}")
