"""What each scheduler reaches, and how fast: random graphs, known optima, networks, sizes.

Each command prints its tables and writes JSON to scripts/results. Schedulers are those of the
registry; `--schedulers` and `--option` choose and set them. Seconds are those of one process on a
quiet machine only with `--jobs 1`. An interrupt ends with the tables of what was done.

    python scripts/benchmark_schedulers.py random --seeds 10
    python scripts/benchmark_schedulers.py optimum --jobs 2
    python scripts/benchmark_schedulers.py zoo
    python scripts/benchmark_schedulers.py cores --schedulers hios-lp,hios-mr,heft
    python scripts/benchmark_schedulers.py speed
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import Any

import click

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import option_group, print_table, scheduler_options
from hios_tvm.cli.progress import progress_bar
from hios_tvm.errors import HiosError
from hios_tvm.experiments.cases import Case, Outcome, mean_of, run_cases, with_inter_only
from hios_tvm.experiments.comparison import check_options, choose_schedulers
from hios_tvm.experiments.core_scaling import SETUPS, ScalingModel, on_cores
from hios_tvm.experiments.known_optimum import graph_with_known_optimum
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.experiments.scaling import Effort, effort, growth_exponent, moves_per_second
from hios_tvm.report.figures import draw_lines
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schema.instance import Instance, read_instance
from hios_tvm.schema.links import LINKS
from hios_tvm.zoo import NETWORKS
from hios_tvm.zoo.costs import cost_file

RESULTS = Path(__file__).parent / "results"
SEARCHES = ("refine", "optimal", "auto")
"""Take as long as they are told to, so that their time says nothing."""


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


@click.group(help=__doc__)
def main() -> None:
    pass


@dataclass(frozen=True)
class Common:
    """``--schedulers``, the options of schedulers, ``--jobs`` and ``--folder``."""

    schedulers: Sequence[str]
    options: dict[str, Any]
    jobs: int
    folder: Path


def common_options(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def checked(
        schedulers: str, options: dict[str, Any], jobs: int, folder: Path, **others: Any
    ) -> None:
        names = choose_schedulers(schedulers)
        check_options(names, options)
        function(Common(names, options, jobs, folder), **others)

    for decorate in (
        click.option(
            "--folder",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            default=RESULTS,
            help="Where the results go.",
        ),
        click.option("--jobs", default=1, show_default=True, type=click.IntRange(1)),
        scheduler_options,
        click.option("--schedulers", default="all", show_default=True),
    ):
        checked = decorate(checked)
    return checked


@main.command()
@common_options
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--devices", default="2,4,8,12", type=_numbers, show_default=True)
@click.option("--layers", default="8,14", type=_numbers, show_default=True)
def random(
    common: Common,
    seeds: int,
    devices: list[int],
    layers: list[int],
) -> None:
    """The paper's random graphs: mean makespan over lower bound."""
    names = with_inter_only(common.schedulers)
    keys = [(n, d) for n in layers for d in devices]
    cases = [
        Case(name, layered, (*key, seed), common.options)
        for seed in range(seeds)
        for key in keys
        for name in names
    ]
    outcomes = _run(cases, common.jobs)
    for n in layers:
        rows = [
            [name]
            + [_cell(outcomes, attrgetter("over_bound"), name, n, d) for d in devices]
            + [_cell(outcomes, attrgetter("seconds"), name, n)]
            for name in names
        ]
        columns = ["", *(f"{d} devices" for d in devices), "seconds"]
        print_table(f"{n} layers: makespan over lower bound, mean of {seeds}", columns, rows)
    _save(common, "schedulers_random.json", outcomes)


def layered(layers: int, devices: int, seed: int) -> Instance:
    return layered_graph(LayeredGraphOptions(layers=layers, devices=devices), seed=seed)


@main.command()
@common_options
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--operators",
    default="50,100,150,200,250,300,350,400,450,500",
    type=_numbers,
    show_default=True,
)
@click.option("--devices", default="2,4,6,8,12,16", type=_numbers, show_default=True)
@click.option("--density", default=0.1, show_default=True, help="Edges over pairs of operators.")
def optimum(
    common: Common,
    seeds: int,
    operators: list[int],
    devices: list[int],
    density: float,
) -> None:
    """Graphs of Davidovic and Crainic, whose optimum is known: mean gap to it."""
    names = with_inter_only(common.schedulers)
    cases = [
        Case(name, known, (n, d, density, seed), common.options)
        for seed in range(seeds)
        for n in operators
        for d in devices
        for name in names
    ]
    outcomes = _run(cases, common.jobs)
    title = f"makespan above the optimum, density {density}, mean of {seeds} graphs of each size"
    rows = [
        [name]
        + [_cell(outcomes, _gap, name, None, d, form="{:.1%}") for d in devices]
        + [_cell(outcomes, _gap, name, form="{:.1%}")]
        for name in names
    ]
    print_table(f"{title}, by devices", ["", *map(str, devices), "all"], rows)
    rows = [
        [name] + [_cell(outcomes, _gap, name, n, form="{:.1%}") for n in operators]
        for name in names
    ]
    print_table(f"{title}, by operators", ["", *map(str, operators)], rows)
    _save(common, "schedulers_optimum.json", outcomes)


def known(operators: int, devices: int, density: float, seed: int) -> Instance:
    return graph_with_known_optimum(operators, devices, density=density, seed=seed).instance


@main.command()
@common_options
@click.option("--devices", default="1,2,4,8", type=_numbers, show_default=True)
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
def zoo(
    common: Common,
    devices: list[int],
    networks: str,
) -> None:
    """The six networks with the costs of one core: speed-up over one device."""
    cases = [
        Case(name, network_on, (network, link, d), common.options)
        for network in networks.split(",")
        for link in LINKS
        for d in devices
        for name in common.schedulers
    ]
    outcomes = _run(cases, common.jobs)
    for link in LINKS:
        rows = [
            [f"{network}, {name}"]
            + [_cell(outcomes, attrgetter("speedup"), name, network, link, d) for d in devices]
            + [_cell(outcomes, attrgetter("over_bound"), name, network, link, devices[-1])]
            for network in networks.split(",")
            for name in common.schedulers
            if name != "sequential"
        ]
        columns = ["", *map(str, devices), f"over bound, {devices[-1]}"]
        print_table(f"{link}: speed-up over one device", columns, rows)
    _save(common, "schedulers_zoo.json", outcomes)


def network_on(network: str, link: str, devices: int) -> Instance:
    return read_instance(cost_file(network)).on(devices, link=LINKS[link])


@main.command()
@common_options
@click.option("--cores", default="2,4,8,16", type=_numbers, show_default=True)
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
@option_group(
    ScalingModel,
    click.option("--parallel-share", default=0.95, show_default=True, help="Of a kernel's time."),
    click.option("--barrier-ms", default=0.002, show_default=True, help="Each time cores double."),
    click.option("--hand-over-ms", default=0.001, show_default=True, help="Between two devices."),
    click.option("--independence", default=0.97, show_default=True, help="Of two busy cores."),
)
def cores(common: Common, cores: list[int], networks: str, scaling_model: ScalingModel) -> None:
    """The six networks on one device, on fixed devices, and with a choice for each operator.

    Kernels were measured on one core and on two; more cores are the model of
    `hios_tvm.experiments.core_scaling`. Each cell is the best of the schedulers.
    """
    cases = [
        Case(name, network_on_cores, (network, count, setup, scaling_model), common.options)
        for network in networks.split(",")
        for count in cores
        for setup in SETUPS
        for name in common.schedulers
    ]
    outcomes = _run(cases, common.jobs)
    rows = []
    for network in networks.split(","):
        for count in cores:
            ms = {
                setup: min(
                    mean_of(outcomes, attrgetter("makespan_ms"), name, network, count, setup)
                    or math.inf
                    for name in common.schedulers
                )
                for setup in SETUPS
            }
            choice_ms = ms["choice"]
            fixed_ms = min(ms["single cores"], ms["halves"])
            bounds = (
                mean_of(outcomes, attrgetter("lower_bound_ms"), name, network, count, "choice")
                for name in common.schedulers
            )
            gains = [f"{other / choice_ms - 1.0:+.0%}" for other in (ms["one device"], fixed_ms)]
            over_bound = choice_ms / max(filter(None, bounds), default=math.nan)
            rows.append(
                [f"{network}, {count}"]
                + [f"{ms[setup]:.2f}" for setup in SETUPS]
                + [*gains, f"{over_bound:.3f}"]
            )
    columns = ["network, cores", *SETUPS, "gain: one device", "fixed", "over bound"]
    print_table("predicted ms; gain of the choice of cores for each operator", columns, rows)
    _save(common, "schedulers_cores.json", outcomes)


def network_on_cores(network: str, cores: int, setup: str, model: ScalingModel) -> Instance:
    return on_cores(read_instance(cost_file(network, 2)), cores, setup, model)


@main.command()
@common_options
@click.option(
    "--sizes", default="100,200,500,1000,2000,5000,10000", type=_numbers, show_default=True
)
@click.option("--devices", default="4,8", type=_numbers, show_default=True)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--limit", default=60.0, show_default=True, help="Seconds; then no larger graphs.")
@click.option("--moves", default=10_000, show_default=True, help="Moves of refine to be timed.")
def speed(
    common: Common,
    sizes: list[int],
    devices: list[int],
    repeats: int,
    limit: float,
    moves: int,
) -> None:
    """Time and memory over sizes, each in a process of its own; moves of refine per second."""
    if common.jobs > 1:
        raise click.UsageError("times are measured one after another: leave --jobs out")
    efforts: list[Effort] = []
    for name in common.schedulers:
        for count in devices if name not in SEARCHES else ():
            for size in sizes:
                stderr().print(f"{name}, {count} devices, {size} operators ...")
                try:
                    each = effort(name, size, count, repeats=repeats, options=common.options)
                except HiosError as error:
                    stderr().print(str(error), soft_wrap=True)
                    break
                efforts.append(each)
                if each.seconds > limit:
                    break
    _print_efforts(efforts, sizes)
    rates = {
        name: moves_per_second(name, moves=moves) for name in common.schedulers if name == "refine"
    }
    for name, rate in rates.items():
        if rate is not None:
            stdout().print(f"{name}: {rate:,.0f} moves a second (200 operators, 4 devices)")
    lines = _by_line(efforts)
    curves = {name: {float(e.operators): e.seconds for e in line} for name, line in lines.items()}
    draw_lines(
        curves,
        common.folder / "schedulers_speed.svg",
        x_label="operators",
        y_label="seconds",
        logarithmic=True,
    )
    data = {
        "machine": describe_machine().to_data(),
        "efforts": [asdict(each) for each in efforts],
        "moves_per_second": rates,
    }
    (common.folder / "schedulers_speed.json").write_text(json.dumps(data, indent=1) + "\n")


def _by_line(efforts: Iterable[Effort]) -> dict[str, list[Effort]]:
    lines: dict[str, list[Effort]] = {}
    for each in efforts:
        lines.setdefault(f"{each.scheduler}, {each.devices} devices", []).append(each)
    return lines


def _print_efforts(efforts: list[Effort], sizes: list[int]) -> None:
    rows = []
    for name, line in _by_line(efforts).items():
        of_size = {each.operators: each for each in line}
        cells = [f"{of_size[n].seconds:.4g}" if n in of_size else "-" for n in sizes]
        large = [each for each in line if each.operators >= 200]
        work = [each.operators * math.log2(each.operators) for each in large]
        exponent = (
            f"{growth_exponent(work, [each.seconds for each in large]):.2f}" if work[1:] else "-"
        )
        rows.append([name, *cells, exponent, f"{max(each.peak_mb for each in line):.0f}"])
    columns = ["", *map(str, sizes), "k", "MB"]
    print_table("seconds by operators (twice as many edges)", columns, rows)
    stdout().print("k: time grows with (n log n)^k from 200 operators on; MB: peak memory")


def _run(cases: list[Case], jobs: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with progress_bar() as progress:
        progress("schedule", 0, len(cases))
        try:
            for outcome in run_cases(cases, jobs=jobs):
                outcomes.append(outcome)
                progress("schedule", len(outcomes), len(cases))
        except KeyboardInterrupt:
            stderr().print(f"interrupted: the tables show {len(outcomes)} of {len(cases)} runs")
    refused = {each.name: each.error for each in outcomes if each.error}
    for name, error in refused.items():
        count = sum(bool(each.error) for each in outcomes if each.name == name)
        stderr().print(f"{name} refused {count} graphs, such as: {error}", soft_wrap=True)
    return outcomes


def _gap(outcome: Outcome) -> float | None:
    """Gap to the known optimum, which is the lower bound: all devices are busy all the time."""
    return None if outcome.over_bound is None else outcome.over_bound - 1.0


def _cell(
    outcomes: list[Outcome],
    value: Callable[[Outcome], float | None],
    name: str,
    *key: Any,
    form: str = "{:.3f}",
) -> str:
    mean = mean_of(outcomes, value, name, *key)
    return "-" if mean is None else form.format(mean)


def _save(common: Common, file: str, outcomes: list[Outcome]) -> None:
    rows = sorted((asdict(each) for each in outcomes), key=lambda row: (row["key"], row["name"]))
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps(
        {"machine": describe_machine().to_data(), "options": common.options}, indent=1
    )
    (common.folder / file).write_text(f'{head[:-2]},\n "outcomes": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
