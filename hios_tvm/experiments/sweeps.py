"""The paper's simulation: one size of random graphs varies, schedulers are compared.

Every run of one scheduler on one graph is a row of a CSV file, written when it is done, so that an
interrupted sweep goes on where it stopped.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hios_tvm.errors import HiosError, UsageError
from hios_tvm.experiments.comparison import compare_schedulers, options_for
from hios_tvm.experiments.parallel import run_parallel
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sweep:
    """Values of one option of `LayeredGraphOptions`; `label` is for the axis of a plot."""

    option: str
    label: str
    values: tuple[float, ...]

    def at(self, base: LayeredGraphOptions, value: float) -> LayeredGraphOptions:
        """Return `base` with the option at `value`; more operators bring more edges."""
        changes: dict[str, Any] = {self.option: value}
        if self.option == "operators":
            changes["edges"] = round(base.edges * value / base.operators)
        return replace(base, **changes)


SWEEPS: dict[str, Sweep] = {
    "devices": Sweep("devices", "devices", (2, 4, 6, 8, 10, 12)),
    "operators": Sweep("operators", "operators", (100, 150, 200, 250, 300, 350, 400)),
    "layers": Sweep("layers", "layers", (6, 8, 10, 12, 14, 16, 18)),
    "edges": Sweep("edges", "edges", (400, 450, 500, 550, 600)),
    "transfer-ratio": Sweep(
        "transfer_ratio", "transfer time over latency", (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
    ),
}
"""The paper's sweeps by name. Fewer than 400 edges do not hold 200 operators together."""


@dataclass(frozen=True)
class Run:
    """One scheduler on one random graph; the results are None until it has run.

    `error` says why a scheduler refused a graph, such as one that is too large for ``optimal``.
    """

    sweep: str
    value: float
    seed: int
    scheduler: str
    options: str
    operators: int
    edges: int
    layers: int
    transfer_ratio: float
    devices: int
    makespan_ms: float | None = field(default=None, compare=False)
    lower_bound_ms: float | None = field(default=None, compare=False)
    speedup: float | None = field(default=None, compare=False)
    transfers: int | None = field(default=None, compare=False)
    seconds: float | None = field(default=None, compare=False)
    error: str = field(default="", compare=False)


def runs_of(
    sweep: str,
    schedulers: Sequence[str],
    *,
    seeds: Iterable[int],
    base: LayeredGraphOptions | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Return the runs of a sweep, seed by seed, so that an interrupted one covers all values.

    Raises
    ------
    UsageError
        If there is no such sweep.
    """
    if sweep not in SWEEPS:
        raise UsageError(f"there is no sweep {sweep!r}; there are {', '.join(SWEEPS)}")
    base = base or LayeredGraphOptions()
    text = {
        name: json.dumps(options_for(name, options or {}), sort_keys=True) for name in schedulers
    }
    return [
        Run(sweep, value, seed, scheduler, text[scheduler], **asdict(SWEEPS[sweep].at(base, value)))
        for seed in seeds
        for value in SWEEPS[sweep].values
        for scheduler in schedulers
    ]


def run_sweep(
    runs: Sequence[Run], path: Path, *, jobs: int = 1, progress: Progress = lambda *_: None
) -> list[Run]:
    """Do what `path` does not hold yet, append it there, and return all of `runs`, done.

    Parameters
    ----------
    path : Path
        CSV file, made if it does not exist. What it holds of other runs stays there.
    jobs : int
        Processes that work at the same time; times of scheduling are those of a loaded machine
        then.

    Raises
    ------
    UsageError
        If `path` is a file of something else.
    GraphError
        If a graph of the sweep cannot be drawn.
    """
    done = {run: run for run in read_runs(path)} if path.exists() else {}
    missing = [run for run in dict.fromkeys(runs) if run not in done]
    count = len(set(runs))
    finished = count - len(missing)
    progress("simulate", finished, count)
    with _appending(path) as append:
        for run in run_parallel(_do, missing, jobs=jobs):
            append(run)
            done[run] = run
            finished += 1
            progress("simulate", finished, count)
    return [done[run] for run in runs]


def read_runs(path: Path) -> list[Run]:
    """Read a CSV file of `run_sweep`.

    Raises
    ------
    UsageError
        If it is something else.
    """
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None:
                return []
            if list(rows.fieldnames) != _COLUMNS:
                raise UsageError(f"{path} is no file of simulated schedules; choose another one")
            return [_run_of(row) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def mean_over_bound(runs: Iterable[Run]) -> dict[str, dict[float, float]]:
    """Mean makespan over lower bound: scheduler -> value of the sweep -> mean over the seeds.

    Schedulers stand in the order of their first runs.
    """
    ratios: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        if run.makespan_ms is not None and run.lower_bound_ms:
            by_value = ratios.setdefault(run.scheduler, {})
            by_value.setdefault(run.value, []).append(run.makespan_ms / run.lower_bound_ms)
    return {
        scheduler: {value: sum(each) / len(each) for value, each in sorted(by_value.items())}
        for scheduler, by_value in ratios.items()
    }


_COLUMNS = [column.name for column in fields(Run)]


def _do(run: Run) -> Run:
    options = LayeredGraphOptions(
        **{size.name: getattr(run, size.name) for size in fields(LayeredGraphOptions)}
    )
    instance = layered_graph(options, seed=run.seed)
    try:
        contestants, _ = compare_schedulers(instance, [run.scheduler], json.loads(run.options))
    except HiosError as error:
        return replace(run, error=str(error))
    result = contestants[run.scheduler]
    return replace(
        run,
        makespan_ms=result.makespan_ms,
        lower_bound_ms=result.lower_bound_ms,
        speedup=result.speedup,
        transfers=result.transfers,
        seconds=result.seconds,
    )


def _run_of(row: dict[str, str]) -> Run:
    def value(kind: Any, text: str) -> Any:
        convert, *none = get_args(kind) or (kind,)
        return None if none and not text else convert(text)

    return Run(**{name: value(kind, row[name]) for name, kind in get_type_hints(Run).items()})


@contextmanager
def _appending(path: Path) -> Iterator[Callable[[Run], None]]:
    new = not path.exists() or path.stat().st_size == 0
    try:
        file = path.open("a", newline="")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    with file:
        writer = csv.DictWriter(file, _COLUMNS)
        if new:
            writer.writeheader()

        def append(run: Run) -> None:
            writer.writerow(asdict(run))
            file.flush()

        yield append
