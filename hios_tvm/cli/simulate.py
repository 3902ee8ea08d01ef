"""``hios-tvm simulate``: an experiment with schedulers on the paper's random graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.cli.console import stderr
from hios_tvm.cli.interrupts import keep_on_interrupt
from hios_tvm.cli.numbers import FiniteRange
from hios_tvm.cli.options import (
    FOLDER,
    NEW_FILE,
    complete_schedulers,
    duration,
    json_option,
    no_progress_option,
    option_group,
    print_json,
    print_table,
    scheduler_options,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.experiments.random_graphs import LayeredGraphOptions

if TYPE_CHECKING:
    from hios_tvm.experiments.sweeps import Run

_SAY_AFTER_S = 5.0

ONE_DEVICE = ("sequential", "greedy", "ios")


@click.command("simulate")
@click.option(
    "--sweep",
    "sweeps",
    default="devices",
    help="What varies: devices, operators, layers, edges, transfer-ratio, comma-separated, or all.",
)
@click.option(
    "--schedulers",
    default="all",
    shell_complete=complete_schedulers,
    help="Comma-separated schedulers, or all.",
)
@click.option("--seeds", default=10, type=click.IntRange(1), help="Graphs.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Seed of the first graph.")
@option_group(
    LayeredGraphOptions,
    click.option("--operators", default=200, type=click.IntRange(2)),
    click.option("--edges", default=400, type=click.IntRange(1)),
    click.option("--layers", default=8, type=click.IntRange(2)),
    click.option("--transfer-ratio", default=0.8, type=FiniteRange(0)),
    click.option("--devices", default=4, type=click.IntRange(1)),
)
@scheduler_options
@click.option(
    "-o",
    "--output",
    type=NEW_FILE,
    default=Path("simulation.csv"),
    help="CSV file; what it holds already is not computed again.",
)
@click.option(
    "--plots",
    type=FOLDER,
    help="Draw each sweep into this folder (needs matplotlib), without those who use one device.",
)
@click.option("--jobs", default=1, type=click.IntRange(1), help="Processes at a time.")
@no_progress_option
@json_option
def command(
    sweeps: str,
    schedulers: str,
    seeds: int,
    seed: int,
    layered_graph_options: LayeredGraphOptions,
    options: dict[str, Any],
    output: Path,
    plots: Path | None,
    jobs: int,
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Compare schedulers on random graphs, as the paper's simulation does; nothing is executed.

    One size of the graphs varies, the others stay as the options say. Each schedule is evaluated
    with the graph's random costs: the tables show the mean makespan over the lower bound, and each
    graph and scheduler is a line of a CSV file. An interrupted experiment goes on when the command
    is repeated.
    """
    from hios_tvm.experiments.comparison import check_options, choose_schedulers
    from hios_tvm.experiments.sweeps import SWEEPS, mean_over_bound, run_sweep, runs_of
    from hios_tvm.files import check_writable, make_folder
    from hios_tvm.report.figures import require_matplotlib

    if plots is not None:
        require_matplotlib()
        make_folder(plots)
    make_folder(output.parent)
    check_writable(output)
    names = choose_schedulers(schedulers)
    check_options(names, options)
    chosen = list(SWEEPS) if sweeps == "all" else [name.strip() for name in sweeps.split(",")]
    runs = [
        run
        for sweep in chosen
        for run in runs_of(
            sweep,
            names,
            seeds=range(seed, seed + seeds),
            base=layered_graph_options,
            options=options,
        )
    ]
    keep_on_interrupt(f"{output} keeps what was computed: run again to continue")
    with progress_bar(enabled=not no_progress) as draw:
        report = draw if stderr().is_terminal and not no_progress else _say_time_left()
        done = run_sweep(runs, output, jobs=jobs, progress=report)
    means = {sweep: mean_over_bound(run for run in done if run.sweep == sweep) for sweep in chosen}
    if json_file is not None:
        print_json(means, json_file)
    else:
        for sweep in chosen:
            _print(sweep, SWEEPS[sweep].values, means[sweep])
    for line in _refusals(done):
        stderr().print(line, soft_wrap=True)
    if plots is not None:
        _draw(plots, means)


def _say_time_left() -> Callable[[str, int, int], None]:
    """Return a progress function that says once, after some seconds, how long it will take."""
    start = time.monotonic()
    first: list[int] = []

    def report(_phase: str, done: int, total: int) -> None:
        first.append(done)
        seconds = time.monotonic() - start
        if first[0] < done < total and seconds > _SAY_AFTER_S:
            left = seconds / (done - first[0]) * (total - done)
            stderr().print(f"{done} of {total} schedules; about {duration(left)} left")
            first[0] = total  # once is enough

    return report


def _draw(folder: Path, means: dict[str, dict[str, dict[float, float]]]) -> None:
    from hios_tvm.experiments.sweeps import SWEEPS
    from hios_tvm.report.figures import draw_lines

    for sweep, lines in means.items():
        file = folder / f"simulation_{sweep}.svg"
        draw_lines(
            _on_several_devices(lines),
            file,
            x_label=SWEEPS[sweep].label,
            y_label="makespan over lower bound",
        )
        stderr().print(f"wrote {file}")


def _print(sweep: str, values: tuple[float, ...], means: dict[str, dict[float, float]]) -> None:
    rows = [
        [scheduler, *(f"{by_value[value]:.3f}" if value in by_value else "-" for value in values)]
        for scheduler, by_value in means.items()
    ]
    print_table(f"makespan over lower bound by {sweep}", ["", *map(str, values)], rows)


def _on_several_devices(means: dict[str, dict[float, float]]) -> dict[str, dict[float, float]]:
    """Leave out schedulers for one device, next to which the others could not be told apart."""
    several = {name: line for name, line in means.items() if name not in ONE_DEVICE}
    return several or means


def _refusals(runs: list[Run]) -> list[str]:
    """One line for each scheduler that refused graphs."""
    errors: dict[str, list[str]] = {}
    for run in runs:
        if run.error:
            errors.setdefault(run.scheduler, []).append(run.error)
    return [f"{name}: {len(each)} graphs refused: {each[0]}" for name, each in errors.items()]
