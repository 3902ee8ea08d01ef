"""Compare what `compile` makes of networks with simpler schedules and with rivals, in turn.

MODELS are ONNX files, or names of `hios-tvm zoo`; by default all of the latter. Contestants are the
artifact of the default scheduler, one device with all cores, devices of one core each, and rivals.
Every artifact is checked against ONNX Runtime first. Prints one table and writes JSON.

    python scripts/benchmark_networks.py randwire hrnet_w18.onnx --json results.json
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import HiosError
from hios_tvm.frontends import load_model
from hios_tvm.measuring.compare import Comparison, compare
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.zoo import NETWORKS, build

LARGEST_ERROR = 1e-4


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--device", help="All cores, as cpu@0-3.  [default: those of this process]")
@click.option("--rivals", default="onnxruntime,openvino", show_default=True)
@click.option("--iterations", default=50, show_default=True)
@click.option("--time-limit", default=20.0, show_default=True, help="Seconds for each contestant.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(
    models: tuple[str, ...],
    device: str | None,
    rivals: str,
    iterations: int,
    time_limit: float,
    json_file: Path | None,
) -> None:
    """Run the script."""
    (whole,) = default_devices() if device is None else (device,)
    results: dict[str, dict[str, Any]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in _files(models or tuple(NETWORKS), Path(folder)):
            stderr().print(f"{model.stem} ...")
            try:
                artifacts = _compile_all(model, whole, Path(folder))
                result = _measure(model, artifacts, whole, rivals, iterations, time_limit)
            except HiosError as error:
                stderr().print(f"{model.stem}: {error}")
                continue
            predicted_ms = read_manifest(artifacts["artifact"]).prediction.makespan_ms
            rows.append(_row(model.stem, result, rivals.split(",")))
            results[model.stem] = {
                "predicted_makespan_ms": predicted_ms,
                "contestants": [asdict(contestant) for contestant in result.contestants],
                "failures": dict(result.failures),
            }
    columns = ["network", "ms", "spread", *_SIMPLER, *rivals.split(","), "largest error"]
    print_table(f"latency on {whole}, and the others' over it", columns, rows)
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)
    if json_file is not None:
        data = {"machine": describe_machine().to_data(), "device": whole, "networks": results}
        json_file.write_text(json.dumps(data, indent=1) + "\n")


_SIMPLER = ("one device", "fixed cores")


def _files(models: tuple[str, ...], folder: Path) -> Iterator[Path]:
    for model in models:
        if model in NETWORKS:
            path = folder / f"{model}.onnx"
            path.write_bytes(build(model).SerializeToString())
            yield path
        else:
            yield Path(model)


def _compile_all(model: Path, whole: str, folder: Path) -> dict[str, Path]:
    """Return the artifact of the default options, and those of simpler schedules."""
    single = tuple(f"cpu@{core}" for core in parse_cores(whole))
    ways = {
        "artifact": CompileOptions(devices=(whole,)),
        "one device": CompileOptions(devices=(whole,), divide=False, scheduler="sequential"),
        "fixed cores": CompileOptions(devices=single, divide=False, scheduler="refine"),
    }
    artifacts = {}
    for name, options in ways.items():
        artifacts[name] = folder / f"{model.stem} {name}.hios"
        compile_model(load_model(model), artifacts[name], options, name=model.stem)
    return artifacts


def _measure(
    model: Path,
    artifacts: dict[str, Path],
    whole: str,
    rivals: str,
    iterations: int,
    time_limit: float,
) -> Comparison:
    result = compare(
        model,
        artifacts["artifact"],
        random_inputs(read_manifest(artifacts["artifact"]).inputs, seed=0),
        cores=parse_cores(whole),
        iterations=iterations,
        time_limit=time_limit,
        rivals=rivals.split(","),
        artifacts={name: artifacts[name] for name in _SIMPLER},
    )
    for contestant in result.contestants:
        error = contestant.max_error
        if contestant.name in artifacts and error is not None and not error <= LARGEST_ERROR:
            raise HiosError(f"{contestant.name}: differs from {result.reference} by {error:.1e}")
    return result


def _row(name: str, result: Comparison, rivals: list[str]) -> list[str]:
    ours = result["artifact"]
    speedups = {contestant.name: f"{contestant.speedup:.2f}" for contestant in result.contestants}
    row = [name, f"{ours.latency.median_ms:.2f}", f"{ours.latency.spread_ms:.2f}"]
    row += [speedups.get(other, "-") for other in (*_SIMPLER, *rivals)]
    return [*row, "-" if ours.max_error is None else f"{ours.max_error:.1e}"]


if __name__ == "__main__":
    main()
