"""All measurements: ``python -m benchmarks [--rounds N] [--scale X] [--database KIND] [--only NAME] [--write]``.

Same work, same durability where it can be set, the contestants in turn, the median of several rounds. The ratio is
what carries over to another machine. ``--write`` puts tables and plots into ``docs/explanation/performance.md``.
"""

from __future__ import annotations

import argparse

from . import anatomy, report
from .contest import ROOT, Figure, figures_of
from .contestants import NAMES, load


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="sitq beside its peers and the drivers")
    parser.add_argument("--rounds", type=int, default=3, help="how often each measurement is taken (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the usual numbers of tasks (default 1)")
    parser.add_argument("--database", choices=NAMES, action="append", help="one kind of database (default all)")
    parser.add_argument("--only", action="append", help="one contestant, by the name of its module")
    parser.add_argument("--write", action="store_true", help=f"write {report.PAGE.relative_to(ROOT)} and its plots")
    options = parser.parse_args()
    for kind in options.database or NAMES:
        names = [name for name in NAMES[kind] if is_there(name) and (not options.only or name in options.only)]
        rates = report.medians(measure(kind, names, options.rounds, options.scale))
        text = (
            f"{report.when()}, {options.rounds} rounds\n\n{report.table(names, rates)}\n\n{report.goals(kind, rates)}"
        )
        print(text, flush=True)
        if options.write:
            report.write_between(report.PAGE, kind, text)
            report.plot(kind, names, rates, report.PAGE.parent / f"performance-{kind}.png")
    stages = anatomy.table()
    print(stages)
    if options.write:
        report.write_between(report.PAGE, "anatomy", stages)


def measure(kind: str, names: list[str], rounds: int, scale: float) -> list[Figure]:
    """Take the contestants in turn, in another order each round."""
    figures: list[Figure] = []
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            for figure in figures_of(name, kind, scale):
                print(f"{number + 1}: {figure.contestant} {figure.what} {figure.rate:,.0f}/s", flush=True)
                figures.append(figure)
    return figures


def is_there(name: str) -> bool:
    """Whether a contestant can take part; say so if not."""
    try:
        load(name)
    except ImportError as error:
        print(f"left out: {name} ({error})")
        return False
    return True


if __name__ == "__main__":
    main()
