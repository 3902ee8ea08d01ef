"""``hios-tvm compare``: the artifact against its rivals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.options import (
    EXISTING_FILE,
    input_options,
    json_option,
    load_inputs,
    print_json,
    print_table,
    stdout,
    verify_key_option,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.errors import UsageError

if TYPE_CHECKING:
    from hios_tvm.measuring.compare import Comparison


@click.command("compare")
@click.argument("model", type=EXISTING_FILE)
@click.argument("artifact", type=EXISTING_FILE)
@input_options
@click.option("--iterations", default=50, show_default=True, type=click.IntRange(1))
@click.option("--warmup", default=10, show_default=True, type=click.IntRange(0))
@click.option(
    "--time-limit",
    default=20.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds for each; a slow one is run less often (5 times at least).",
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="NAME:DIMS", help="As in the compile command."
)
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@verify_key_option
@json_option
def command(
    model: Path,
    artifact: Path,
    inputs: tuple[str, ...],
    seed: int,
    value_range: str | None,
    iterations: int,
    warmup: int,
    time_limit: float,
    shapes: tuple[str, ...],
    no_progress: bool,
    verify_key: Path | None,
    json_file: str | None,
) -> None:
    """Compare ARTIFACT with other ways to run MODEL, on the same inputs and cores, in turn.

    \b
    tvm-default   TVM's default pipeline and virtual machine
    same-kernels  the artifact's kernels on one device with all cores, in the virtual machine
    onnxruntime   ONNX Runtime, in its faster mode
    openvino      OpenVINO, where installed, for the lowest latency, in single precision
    artifact      the artifact
    """
    from hios_tvm import runtime
    from hios_tvm.frontends.shapes import parse_shape
    from hios_tvm.measuring.benchmark import benchmark
    from hios_tvm.measuring.compare import compare
    from hios_tvm.report.explain import bottlenecks
    from hios_tvm.runtime.machine import describe_machine
    from hios_tvm.runtime.read_artifact import read_manifest
    from hios_tvm.schema.device_names import parse_cores

    manifest = read_manifest(artifact, verify_key=verify_key)
    if any(device.kind == "cuda" for device in manifest.devices):
        raise UsageError(
            f"{artifact} is for GPUs, and its rivals run on CPUs: use hios-tvm benchmark"
        )
    with runtime.load(artifact, verify_key=verify_key) as session:
        specs = [(spec.name, spec.shape, spec.dtype) for spec in session.inputs]
        arrays = load_inputs(inputs, specs, seed, value_range)
        devices = [device.name for device in session.manifest.devices]
    cores = sorted({core for name in devices for core in parse_cores(name)})
    with progress_bar(enabled=not no_progress) as progress:
        result = compare(
            model,
            artifact,
            arrays,
            cores=cores,
            shapes=dict(parse_shape(shape) for shape in shapes),
            iterations=iterations,
            warmup=warmup,
            time_limit=time_limit,
            verify_key=verify_key,
            progress=progress,
        )
    with runtime.load(artifact, verify_key=verify_key) as session:
        busy = benchmark(session, arrays, iterations=30, warmup=10, duration=0.0)
    notes = bottlenecks(busy, session.manifest)
    if json_file is not None:
        data = {
            "model": str(model),
            "artifact": str(artifact),
            "machine": describe_machine().to_data(),
            "reference": result.reference,
            "contestants": [asdict(contestant) for contestant in result.contestants],
            "failures": dict(result.failures),
            "notes": notes,
        }
        print_json(data, json_file)
        return
    _print(f"{model.name} on {', '.join(devices)}", result, notes)


def _print(title: str, result: Comparison, notes: list[str]) -> None:
    from hios_tvm.runtime.machine import describe_machine

    rows = [
        [
            contestant.name,
            f"{contestant.latency.median_ms:.2f}",
            f"{contestant.latency.spread_ms:.2f}",
            str(contestant.latency.runs),
            f"{contestant.speedup:.2f}x",
            "-" if contestant.max_error is None else f"{contestant.max_error:.1e}",
        ]
        for contestant in result.contestants
    ]
    columns = ["", "median ms", "spread ms", "runs", "artifact's speed-up", "largest error"]
    print_table(title, columns, rows)
    console = stdout()
    for contestant in result.contestants:
        console.print(f"{contestant.name}: {contestant.description}", soft_wrap=True)
    for name, failure in result.failures.items():
        console.print(f"{name}: not run: {failure}", soft_wrap=True)
    for line in notes:
        console.print(line, soft_wrap=True)
    console.print(f"machine: {describe_machine()}", soft_wrap=True)
