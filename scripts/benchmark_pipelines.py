"""Pipelines and replicas: predicted and measured throughput.

Without arguments the real executor runs networks of `hios_tvm/zoo/costs` on emulated devices, which
sleep for the times of the costs: as a pipeline, as replicas, and as replicas of pipelines. With
MODELS, ONNX files, this machine runs them: what ``compile --objective throughput`` chooses, and all
that it chose from, in turn; then once more, to compare the choice in runs that it has not seen.

    python scripts/benchmark_pipelines.py
    python scripts/benchmark_pipelines.py --networks squeezenet1_1 --results 10
    python scripts/benchmark_pipelines.py resnet50.onnx squeezenet1_1.onnx
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.compiler.pipeline import plan_model
from hios_tvm.compiler.throughput import plan_entrants
from hios_tvm.files import atomic_write
from hios_tvm.frontends.onnx import load_onnx
from hios_tvm.measuring.contest import run_throughput_contest, winner
from hios_tvm.measuring.emulate_throughput import emulate_throughput
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schedulers.throughput_stages import contiguous_pipeline
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.links import LINKS
from hios_tvm.zoo.costs import cost_file

RESULTS = Path(__file__).parent / "results" / "pipelines.json"
LAYOUTS = ((2, 1), (4, 1), (1, 2), (1, 4), (2, 2))
"""Devices of each session, and sessions."""


@dataclass(frozen=True)
class Emulated:
    """A network on emulated devices: milliseconds from one result to the next."""

    network: str
    devices: int
    sessions: int
    predicted_ms: float
    measured_ms: float
    lower_bound_ms: float


@click.command(help=__doc__)
@click.argument("models", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--networks", default="squeezenet1_1,randwire,resnet50,inception_v3")
@click.option("--results", type=click.IntRange(1), default=20, help="Of each emulated session.")
@click.option("--scale", type=float, help="Factor on emulated times.  [default: 8 ms a kernel]")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS)
def main(
    models: tuple[Path, ...], networks: str, results: int, scale: float | None, output: Path
) -> None:
    data: dict[str, Any] = {"machine": describe_machine().to_data()}
    if models:
        data["measured"] = {path.stem: _in_turn(path) for path in models}
    else:
        rows = [
            _emulated(network, *layout, results, scale)
            for network in networks.split(",")
            for layout in LAYOUTS
        ]
        _print(rows)
        data["emulated"] = [asdict(row) for row in rows]
    with atomic_write(output) as file:
        file.write(f"{json.dumps(data, indent=1)}\n".encode())


def _emulated(
    network: str, devices: int, sessions: int, results: int, scale: float | None
) -> Emulated:
    instance = read_instance(cost_file(network)).on(devices, link=LINKS["pcie4"])
    pipeline = contiguous_pipeline(instance.graph, instance.costs, instance.platform)
    found = emulate_throughput(instance, pipeline, sessions=sessions, results=results, scale=scale)
    stdout().print(f"{network}, {sessions} x {devices} devices: {found.ratio:.4f} of the predicted")
    bound_ms = pipeline.lower_bound_ms / sessions
    return Emulated(network, devices, sessions, found.predicted_ms, found.interval_ms, bound_ms)


def _print(rows: list[Emulated]) -> None:
    print_table(
        "Time from one result to the next on emulated devices",
        ["network", "sessions", "devices of each", "predicted", "measured", "ratio", "lower bound"],
        [
            [
                row.network,
                str(row.sessions),
                str(row.devices),
                f"{row.predicted_ms:.3f}",
                f"{row.measured_ms:.3f}",
                f"{row.measured_ms / row.predicted_ms:.4f}",
                f"{row.lower_bound_ms:.3f}",
            ]
            for row in rows
        ],
    )
    worst = max(abs(row.measured_ms / row.predicted_ms - 1.0) for row in rows)
    stdout().print(f"largest deviation {worst:.1%}")


def _in_turn(path: Path) -> dict[str, Any]:
    """Let everything that uses all cores run in turn, twice: to choose, and to compare."""
    options = CompileOptions(devices=default_devices(), objective="throughput")
    plan_one = partial(plan_model, load_onnx(path), name=path.stem, compared=False)
    entrants = plan_entrants(lambda options, make: plan_one(options, make=make), options)
    builds = [entrant.planned.build for entrant in entrants]
    predicted_ms = [entrant.predicted_ms for entrant in entrants]
    chosen = winner(run_throughput_contest(builds, predicted_ms))
    trials = run_throughput_contest(builds, predicted_ms)
    ratios = [trials[chosen].relative_to(trial) for trial in trials]
    print_table(
        f"{path.stem}: milliseconds from one result to the next, {trials[chosen].scheduler} chosen",
        ["what", "predicted", "measured", "±", "chosen over this"],
        [
            [
                trial.scheduler,
                f"{trial.predicted_ms:.3f}",
                f"{trial.latency.median_ms:.3f}",
                f"{trial.latency.spread_ms:.3f}",
                f"{ratio:.3f}",
            ]
            for trial, ratio in zip(trials, ratios, strict=True)
        ],
    )
    return {
        "chosen": trials[chosen].scheduler,
        "trials": [asdict(trial) for trial in trials],
        "chosen_over": ratios,
    }


if __name__ == "__main__":
    main()
