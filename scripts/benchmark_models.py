#!/usr/bin/env python3
"""Compare artifacts of ONNX files with ONNX Runtime, OpenVINO and torch.compile, in turn.

PATHS are ONNX files and folders of them; the networks that `--export` names are exported from
PyTorch into `--folder` first (scripts/export_networks.py --list names them). Results are written
after each network; a run that is started again with the same JSON file goes on where it ended.
torch.compile takes part where NAME.pt2 lies beside NAME.dynamo.onnx, and PyTorch is installed.

    python scripts/benchmark_models.py networks --json results.json
    python scripts/benchmark_models.py --export resnet50,bert --json results.json
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import click
import numpy as np
from check_networks import model_files, recorded_draws

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import HiosError
from hios_tvm.files import atomic_write
from hios_tvm.frontends import load_model
from hios_tvm.measuring.compare import ARTIFACT, TORCH, compare
from hios_tvm.runtime.devices.cpu.cores import allowed_cores, default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.runtime.read_artifact import read_manifest
from hios_tvm.verification.inputs import random_inputs

RIVALS = ("onnxruntime", "openvino", TORCH)
Result = Mapping[str, Any]


@click.command(help=__doc__)
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--export", "exported", help="Comma-separated networks to export and measure.")
@click.option("--folder", default="networks", type=click.Path(path_type=Path), show_default=True)
@click.option("--target", default="host", show_default=True, help="As in hios-tvm compile.")
@click.option("--iterations", default=50, show_default=True)
@click.option("--time-limit", default=10.0, show_default=True, help="Seconds for each contestant.")
@click.option(
    "--json", "json_file", required=True, type=click.Path(path_type=Path), help="Results."
)
def main(
    paths: tuple[Path, ...],
    exported: str | None,
    folder: Path,
    target: str,
    iterations: int,
    time_limit: float,
    json_file: Path,
) -> None:
    data: dict[str, Any] = {"machine": describe_machine().to_data(), "target": target}
    results: dict[str, Result] = {}
    if json_file.exists():
        results = json.loads(json_file.read_text())["networks"]
    for file in model_files([*paths, *_export(exported, folder)]):
        name = file.stem
        if "artifact_ms" in results.get(name, {}):
            continue
        stderr().print(f"{name} ...", markup=False)
        try:
            results[name] = _measure(file, target, iterations, time_limit)
        except HiosError as error:
            stderr().print(f"{name}: {error}", markup=False)
            results[name] = {"error": str(error)}
        with atomic_write(json_file) as stream:
            stream.write((json.dumps(data | {"networks": results}, indent=1) + "\n").encode())
    _print(results)


def _export(names: str | None, folder: Path) -> list[Path]:
    """Export networks that are not in `folder`; return the files of all."""
    if names is None:
        return []
    files = {name: folder / f"{name}.dynamo.onnx" for name in names.split(",")}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        script = Path(__file__).with_name("export_networks.py")
        options = ["--only", ",".join(missing), "--exporter", "dynamo", "-o", str(folder)]
        subprocess.run([sys.executable, str(script), *options], check=True)
    return list(files.values())


def _measure(model: Path, target: str, iterations: int, time_limit: float) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "model.hios"
        options = CompileOptions(devices=default_devices(), target=target)
        program = model.with_name(f"{model.name.partition('.')[0]}.pt2")
        compiled = compile_model(load_model(model), artifact, options, name=model.stem)
        comparison = compare(
            model,
            artifact,
            _recorded_inputs(model) or random_inputs(read_manifest(artifact).inputs, seed=0),
            cores=sorted(allowed_cores()),
            iterations=iterations,
            time_limit=time_limit,
            rivals=RIVALS if program.exists() else [name for name in RIVALS if name != TORCH],
            torch_program=program if program.exists() else None,
        )
    ours = comparison[ARTIFACT]
    medians = {c.name: c.latency.median_ms for c in comparison.contestants if c is not ours}
    return {
        "artifact_ms": ours.latency.median_ms,
        "rivals_ms": medians,
        "ratio": min(medians.values(), default=float("nan")) / ours.latency.median_ms,
        "max_error": ours.max_error,
        "makespan_ms": compiled.schedule.makespan_ms,
        "contestants": [asdict(contestant) for contestant in comparison.contestants],
        "failures": dict(comparison.failures),
    }


def _recorded_inputs(model: Path) -> Mapping[str, np.ndarray]:
    """Return the first inputs that `export_networks.py` recorded for the network, if it did."""
    draws = recorded_draws(model)
    return draws[0][0] if draws else {}


def _print(results: Mapping[str, Result]) -> None:
    rows, ratios = [], []
    for name, result in sorted(results.items(), key=lambda item: item[1].get("ratio", 0.0)):
        if "error" in result:
            rows.append([name, "-", "-", "-", "-", result["error"]])
            continue
        rivals = [result["rivals_ms"].get(rival) for rival in RIVALS]
        times = [result["artifact_ms"], *rivals]
        cells = ["-" if value is None else f"{value:.2f}" for value in [*times, result["ratio"]]]
        error = result["max_error"]
        rows.append([name, *cells, "-" if error is None else f"{error:.1e}"])
        ratios.append(result["ratio"])
    print_table("networks", ["network", "artifact ms", *RIVALS, "ratio", "largest error"], rows)
    if ratios:
        stdout().print(f"geometric mean of {len(ratios)} ratios: {geometric_mean(ratios):.3f}")
    stdout().print("ratio: the faster rival's median over the artifact's; above 1 we are faster")
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)


if __name__ == "__main__":
    main()
