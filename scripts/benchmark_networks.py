"""Compare artifacts of the six benchmark networks with their rivals, in turn, on this machine.

Prints one table and writes JSON. Every artifact is checked against ONNX Runtime first.

    python scripts/benchmark_networks.py --devices cpu@0,cpu@1 --json results.json
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import onnx

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import HiosError
from hios_tvm.frontends import load_model
from hios_tvm.measuring.compare import Comparison, compare
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.schema.device_names import parse_cores, parse_device_list
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.zoo import NETWORKS, build

LARGEST_ERROR = 1e-4


@click.command(help=__doc__)
@click.option("--devices", help="As in hios-tvm compile.  [default: all cores as one device]")
@click.option("--scheduler", default="hios-lp", show_default=True)
@click.option("--networks", help="Comma-separated names, or none.  [default: all six]")
@click.option("--light", is_flag=True, help="Also the light_*.onnx networks of the onnx package.")
@click.option("--rivals", default="tvm-default,same-kernels,onnxruntime", show_default=True)
@click.option("--iterations", default=50, show_default=True)
@click.option("--time-limit", default=20.0, show_default=True, help="Seconds for each rival.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(
    devices: str | None,
    scheduler: str,
    networks: str | None,
    light: bool,
    rivals: str,
    iterations: int,
    time_limit: float,
    json_file: Path | None,
) -> None:
    names = tuple(default_devices() if devices is None else parse_device_list(devices))
    chosen = list(NETWORKS) if networks is None else list(filter(None, networks.split(",")))
    results: dict[str, dict[str, Any]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in _models(chosen, light, Path(folder)).items():
            stderr().print(f"{name} ...")
            try:
                artifact, makespan_ms = _compile(model, names, scheduler, Path(folder))
                result = _measure(model, artifact, names, rivals, iterations, time_limit)
            except HiosError as error:
                stderr().print(f"{name}: {error}")
                continue
            rows.append(_row(name, result, makespan_ms))
            results[name] = {
                "predicted_makespan_ms": makespan_ms,
                "contestants": [asdict(contestant) for contestant in result.contestants],
                "failures": dict(result.failures),
            }
    columns = ["network", "artifact ms", "spread", "predicted", "onnxruntime", "ratio"]
    columns += ["same kernels", "ratio", "tvm default", "ratio", "largest error"]
    print_table(f"{scheduler} on {', '.join(names)}", columns, rows)
    stdout().print("ratio: the rival's median over the artifact's, above 1 where we are faster")
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)
    if json_file is not None:
        data = {
            "machine": describe_machine().to_data(),
            "devices": names,
            "scheduler": scheduler,
            "networks": results,
        }
        json_file.write_text(json.dumps(data, indent=1) + "\n")


def _models(chosen: list[str], light: bool, folder: Path) -> dict[str, Path]:
    models = {}
    for name in chosen:
        models[name] = folder / f"{name}.onnx"
        models[name].write_bytes(build(name).SerializeToString())
    if light:
        data = Path(onnx.__file__).parent / "backend/test/data/light"
        models |= {path.stem: path for path in sorted(data.glob("light_*.onnx"))}
    return models


def _compile(
    model: Path, devices: tuple[str, ...], scheduler: str, folder: Path
) -> tuple[Path, float]:
    artifact = folder / f"{model.stem}.hios"
    options = CompileOptions(devices=devices, scheduler=scheduler)
    compiled = compile_model(load_model(model), artifact, options, name=model.stem)
    assert compiled.schedule.makespan_ms is not None
    return artifact, compiled.schedule.makespan_ms


def _measure(
    model: Path,
    artifact: Path,
    devices: tuple[str, ...],
    rivals: str,
    iterations: int,
    time_limit: float,
) -> Comparison:
    result = compare(
        model,
        artifact,
        random_inputs(read_manifest(artifact).inputs, seed=0),
        cores=sorted({core for name in devices for core in parse_cores(name)}),
        iterations=iterations,
        time_limit=time_limit,
        rivals=rivals.split(","),
    )
    error = result["artifact"].max_error
    if error is not None and not error <= LARGEST_ERROR:
        raise HiosError(f"the outputs differ from {result.reference} by {error:.1e}")
    return result


def _row(name: str, result: Comparison, makespan_ms: float) -> list[str]:
    ours = result["artifact"]
    row = [name, f"{ours.latency.median_ms:.2f}", f"{ours.latency.spread_ms:.2f}"]
    row.append(f"{makespan_ms:.2f}")
    for rival in ("onnxruntime", "same-kernels", "tvm-default"):
        other = next((c for c in result.contestants if c.name == rival), None)
        row += (
            ["-", "-"]
            if other is None
            else [f"{other.latency.median_ms:.2f}", f"{other.speedup:.2f}"]
        )
    return [*row, "-" if ours.max_error is None else f"{ours.max_error:.1e}"]


if __name__ == "__main__":
    main()
