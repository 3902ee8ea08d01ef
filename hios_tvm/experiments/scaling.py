"""How time and memory of schedulers grow with the graph."""

import math
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hios_tvm.experiments.comparison import schedule_instance
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.schedulers import SCHEDULERS
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.schedule import Schedule


@dataclass(frozen=True)
class Effort:
    """Median seconds of a scheduler, and the peak memory of a process that did nothing else.

    Seconds are of processor time: what else the machine does hardly counts.
    """

    scheduler: str
    operators: int
    edges: int
    devices: int
    seconds: float
    peak_mb: float
    makespan_ms: float
    lower_bound_ms: float


def sized_graph(operators: int, devices: int, *, seed: int = 0) -> Instance:
    """Draw a random graph of the paper's proportions: twice as many edges, 8 layers at 200.

    Layers grow with the square root of the size, so that graphs become longer and wider.
    """
    layers = max(4, round(8 * math.sqrt(operators / 200)))
    options = LayeredGraphOptions(
        operators=operators, edges=2 * operators, layers=layers, devices=devices
    )
    return layered_graph(options, seed=seed)


def effort(
    scheduler: str,
    operators: int,
    devices: int,
    *,
    repeats: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Effort:
    """Schedule a `sized_graph` in a new process, and say what that took.

    The time is that of `make_schedule`: the evaluation of the schedule and the bound included.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        arguments = (scheduler, operators, devices, repeats, dict(options or {}))
        return executor.submit(_effort, *arguments).result()


def growth_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return k of the power law ``seconds ~ sizes ** k`` that fits best.

    >>> round(growth_exponent([10, 100, 1000], [1, 100, 10000]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def moves_per_second(
    scheduler: str, *, moves: int = 10_000, operators: int = 200, devices: int = 4
) -> float | None:
    """Moves that a local search evaluates in a second of processor time.

    The schedule that it starts from does not count. The graph must be so large that the search does
    not reach the lower bound, at which it stops. None where the scheduler has no option ``moves``.
    """
    known = {field.name for field in fields(SCHEDULERS[scheduler].options)}
    if "moves" not in known:
        return None
    instance = sized_graph(operators, devices)
    # A budget of time must not end the search first.
    unlimited = {"time_limit_s": math.inf} if "time_limit_s" in known else {}
    (few, _), (many, _) = (
        _timed(scheduler, instance, {"moves": count, **unlimited}) for count in (1, 1 + moves)
    )
    return moves / (many - few)


def _effort(
    scheduler: str, operators: int, devices: int, repeats: int, options: dict[str, Any]
) -> Effort:
    instance = sized_graph(operators, devices)
    runs = [_timed(scheduler, instance, options) for _ in range(repeats)]
    schedule = runs[-1][1]
    return Effort(
        scheduler=scheduler,
        operators=operators,
        edges=len(instance.graph.edges),
        devices=devices,
        seconds=median(seconds for seconds, _ in runs),
        peak_mb=_peak_mb(),
        makespan_ms=schedule.makespan_ms or 0.0,
        lower_bound_ms=schedule.lower_bound_ms or 0.0,
    )


def _timed(
    scheduler: str, instance: Instance, options: Mapping[str, Any]
) -> tuple[float, Schedule]:
    start = time.process_time()
    schedule = schedule_instance(instance, scheduler, options)
    return time.process_time() - start, schedule


def _peak_mb() -> float:
    """Peak memory of this process; getrusage would count what it was forked from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1e3
    return math.nan
