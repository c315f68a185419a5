"""The command ``sitq``. It needs the extra ``cli``."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("typer", "rich"):
        raise
    sys.exit(f"sitq: the command line needs {error.name}, which is not installed: pip install '.[cli]' in a checkout")

from .backends.opening import open_named, open_to_look
from .claims import DEFAULT_LEASE, CancelResult, RetryResult
from .exceptions import ConfigurationError, SitqError
from .models import Task, TaskStatus
from .options import DEFAULT_QUEUE
from .processes import WorkerProcesses, WorkerSpec
from .schema import HEAD
from .stats import Stats, TaskCounts
from .worker import DEFAULT_CONCURRENCY, DEFAULT_SHUTDOWN_TIMEOUT

app = typer.Typer(
    help="A task queue that lives in the database your app already has.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

LONGEST_LINE = 200  # characters of an error's message

# Typer carries parts of Click under names that differ from release to release.
UsageError: Any = typer.BadParameter.__mro__[1]

Database = Annotated[
    str,
    typer.Argument(
        metavar="DATABASE",
        help="A path, a URL such as sqlite:///tasks.db, or a backend in a module of yours, such as shop.queue:backend.",
    ),
]


def main() -> None:
    """Run the command, and end the process: 0 if all went well, 1 after an error of sitq's, 2 after wrong usage."""
    warnings.showwarning = show_warning
    try:
        code = app(prog_name="sitq", standalone_mode=False)
    except UsageError as error:
        code = fail(error.format_message() or "give a command, such as status", code=2)
    except SitqError as error:
        code = fail(str(error), code=1)
    sys.exit(code)


@app.command()
def worker(
    database: Database,
    queue: Annotated[
        list[str] | None, typer.Option(help="A queue to serve; repeat it for more, the first goes first.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="How many tasks each process runs at once.")] = DEFAULT_CONCURRENCY,
    processes: Annotated[int, typer.Option(min=1, max=1000, help="How many worker processes.")] = 1,
    app_dir: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Where the modules of the tasks are imported from.")
    ] = Path(),
    poll_interval: Annotated[
        float | None, typer.Option(help="Seconds between looks for tasks of which there is no news; 0.2 or 0.5.")
    ] = None,
    lease: Annotated[
        float, typer.Option(help="Seconds after which the tasks of a worker that died elsewhere run again.")
    ] = DEFAULT_LEASE,
    shutdown_timeout: Annotated[
        float, typer.Option(help="Seconds that running tasks have to end before they are given back.")
    ] = DEFAULT_SHUTDOWN_TIMEOUT,
) -> int:
    """Run tasks until SIGINT (Ctrl-C) or SIGTERM; a second signal does not wait for those that run."""
    spec = WorkerSpec(
        database=check_shared(database),
        queues=tuple(queue or [DEFAULT_QUEUE]),
        concurrency=concurrency,
        poll_interval=poll_interval,
        lease=lease,
        shutdown_timeout=shutdown_timeout,
        app_dir=str(app_dir.resolve()),
    )
    if processes == 1:
        spec.run()
        return 0
    spec.check()
    return 0 if WorkerProcesses(spec, processes, say).run() else 1


@app.command()
def status(database: Database) -> None:
    """Print how many tasks each queue holds, by status."""
    with open_to_look(check_shared(database)) as backend:
        stats, paused, now = backend.get_stats(), backend.paused_queues(), backend.now()
    print_table(status_table(stats, paused, now))


@app.command()
def failed(
    database: Database,
    queue: Annotated[str | None, typer.Option(help="Only those of this queue.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """Print the tasks that failed, the newest first."""
    with open_to_look(check_shared(database)) as backend:
        tasks, now = backend.list_tasks(status=TaskStatus.FAILED.value, queue=queue, limit=limit), backend.now()
    print_table(failures_table(tasks, now))


@app.command()
def retry(
    database: Database,
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="ID")] = None,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="Every task that failed.")] = False,
) -> int:
    """Put ended tasks back into their queues, as when they were enqueued."""
    chosen = list(task_ids or ())
    if not chosen and not all_failed:
        raise ConfigurationError("nothing to put back: give ids, or --all-failed")
    with open_named(check_shared(database)) as backend:
        if all_failed:
            chosen += [task.id for task in backend.list_tasks(status=TaskStatus.FAILED.value)]
        return print_answers(backend.retry(chosen), good={RetryResult.QUEUED})


@app.command()
def cancel(
    database: Database,
    task_ids: Annotated[list[str], typer.Argument(metavar="ID")],
    reason: Annotated[str | None, typer.Option(help="What whoever waits for the result is told.")] = None,
) -> int:
    """Cancel tasks: queued ones at once, running ones as soon as their worker can."""
    with open_named(check_shared(database)) as backend:
        answers = backend.cancel(task_ids, reason)
    return print_answers(answers, good={CancelResult.CANCELLED, CancelResult.REQUESTED})


@app.command()
def upgrade(database: Database) -> None:
    """Make the tables, or upgrade those of an older version; their rows are kept."""
    with open_named(check_shared(database)) as backend:
        backend.initialize()
    print(f"the database is ready for this version of sitq, which needs revision {HEAD}")


def check_shared(database: str) -> str:
    """Return the database, or raise ``ConfigurationError`` for one that no other process can see."""
    if database == ":memory:":
        raise ConfigurationError("DATABASE=':memory:' is not allowed: it would be seen by this process alone")
    if (folder := str(Path.cwd())) not in sys.path:  # where a module is looked for
        sys.path.insert(0, folder)
    return database


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal; elsewhere, so that whatever reads it finds each row on one line."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(table)


def print_answers(answers: Mapping[str, str], *, good: Collection[str]) -> int:
    """Print what became of each task; return the exit code."""
    for task_id, answer in answers.items():
        print(printable(task_id), str(answer))
    return 0 if set(answers.values()) <= set(good) else 1


def failures_table(tasks: list[Task], now: datetime) -> Table:
    """A row for each task that failed."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("id", no_wrap=True)
    for title in ("queue", "name", "attempts", "ago", "error"):
        table.add_column(title, overflow="fold")
    for task in tasks:
        attempts, ago = str((task.retry_count or 0) + 1), age(task.completed_at, now)
        texts = (task.id, task.queue, task.name or "-", attempts, ago, first_line(task.error_message or "-"))
        table.add_row(*(Text(printable(text)) for text in texts))
    return table


def first_line(text: str) -> str:
    """The beginning of a text, on one line."""
    line = (text.splitlines() or [""])[0]
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


def status_table(stats: Stats, paused: list[str], now: datetime) -> Table:
    """A row for each queue that has tasks or is paused, and one for all of them."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("queue", overflow="fold", min_width=10)
    for title in ("queued", "later", "retries", "running", "completed", "failed", "cancelled", "oldest due"):
        table.add_column(title, justify="right", no_wrap=True)
    for queue in sorted({*stats.queues, *paused}):
        name = printable(queue) + (" (paused)" if queue in paused else "")
        table.add_row(Text(name), *cells(stats.queues.get(queue, TaskCounts()), now))
    table.add_section()
    table.add_row("all queues", *cells(stats, now))
    return table


def cells(counts: TaskCounts, now: datetime) -> list[str]:
    """The numbers of one row."""
    numbers = (
        counts.pending_tasks,
        counts.scheduled_tasks,
        counts.retrying_tasks,
        counts.running_tasks,
        counts.completed_tasks,
        counts.failed_tasks,
        counts.cancelled_tasks,
    )
    return [*map(str, numbers), age(counts.oldest_due_at, now)]


def age(since: datetime | None, now: datetime) -> str:
    """How long ago that was, in the largest unit that fits."""
    if since is None:
        return "-"
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def printable(text: str) -> str:
    """The text as a terminal may be given it."""
    return text if text.isprintable() else repr(text)


def hide_passwords(text: str) -> str:
    """The text with the passwords of its URLs left out."""
    text = re.sub(r"(://[^\s:@/]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][^\s=&]*pass[^\s=&]*=)[^\s&'\"]*", r"\1***", text)


def say(line: str) -> None:
    """Print a line about the command itself, where it does not mix with what was asked for."""
    print(f"sitq: {hide_passwords(' '.join(line.split()))}", file=sys.stderr, flush=True)


def fail(line: str, *, code: int) -> int:
    """Say what went wrong; return the exit code."""
    say(line)
    return code


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as a line of the command's."""
    say(f"warning: {message}")
