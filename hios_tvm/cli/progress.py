"""A progress bar for long work, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hios_tvm.cli.console import stderr


@contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function ``(phase, done, total)`` that draws one line a phase.

    A line shows the time so far and, from what is done, the time that is left. Where standard
    error is no terminal, nothing is drawn.
    """
    console = stderr()
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (enabled and console.is_terminal)) as bar:
        tasks: dict[str, int] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            task = bar.tasks[tasks[phase]]
            # A phase may announce itself as one step before it knows how many it has.
            if total >= (task.total or 0):
                bar.update(task.id, completed=done, total=total)
            elif done == total:
                bar.update(task.id, completed=task.total)

        yield report
