"""``hios-tvm compare``: the artifact against its rivals."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.numbers import FiniteRange
from hios_tvm.cli.options import (
    EXISTING_FILE,
    ArtifactFile,
    Inputs,
    ModelFile,
    input_options,
    json_option,
    model_options,
    no_progress_option,
    print_json,
    print_table,
    verify_key_option,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.errors import UsageError
from hios_tvm.schema.device_names import parse_cores

if TYPE_CHECKING:
    from hios_tvm.measuring.compare import Comparison


@click.command("compare")
@model_options
@click.argument("artifact", type=EXISTING_FILE)
@input_options
@click.option("--iterations", default=50, type=click.IntRange(1))
@click.option("--warmup", default=10, type=click.IntRange(0))
@click.option(
    "--time-limit",
    default=20.0,
    type=FiniteRange(0),
    help="Seconds of runs for each: a slow one is run less often, and not at all where its first "
    "run takes longer.",
)
@click.option(
    "--rivals",
    metavar="NAMES",
    help="Compare with these alone, for example onnxruntime,openvino.",
)
@click.option(
    "--torch",
    "torch_program",
    type=EXISTING_FILE,
    help="MODEL as torch.export.save wrote it, for the rival torch.",
)
@no_progress_option
@verify_key_option
@json_option
def command(
    model_file: ModelFile,
    artifact: Path,
    inputs: Inputs,
    iterations: int,
    warmup: int,
    time_limit: float,
    rivals: str | None,
    torch_program: Path | None,
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
    torch         torch.compile of the program that --torch names
    artifact      the artifact
    """
    from hios_tvm.measuring.benchmark import benchmark
    from hios_tvm.measuring.compare import ARTIFACT, compare
    from hios_tvm.report.explain import bottlenecks
    from hios_tvm.runtime.devices import HOST

    artifact_file = ArtifactFile(artifact=artifact, verify_key=verify_key)
    devices = artifact_file.read().devices
    if any(device.kind != HOST for device in devices):
        raise UsageError(
            f"{artifact} is for GPUs, and its rivals run on CPUs: use hios-tvm benchmark"
        )
    with artifact_file.load() as session:
        arrays = replace(inputs, run_shapes=model_file.shape_words).arrays(session)
        manifest = session.manifest_of(arrays)
    with progress_bar(enabled=not no_progress) as progress:
        result = compare(
            model_file.model,
            artifact,
            arrays,
            cores=sorted({core for device in devices for core in parse_cores(device.name)}),
            shapes=model_file.shapes,
            params=model_file.params,
            iterations=iterations,
            warmup=warmup,
            time_limit=time_limit,
            rivals=None if rivals is None else [name.strip() for name in rivals.split(",")],
            verify_key=verify_key,
            torch_program=torch_program,
            progress=progress,
        )
    with artifact_file.load() as session:
        busy = benchmark(session, arrays, iterations=30, warmup=10, duration=0.0)
    # The table has the artifact's median: a second one beside it would only show the noise.
    ours = replace(busy, latency=result[ARTIFACT].latency, others=result.others)
    notes = bottlenecks(ours, manifest)
    if json_file is None:
        names = ", ".join(device.name for device in devices)
        _print(f"{model_file.model.name} on {names}", result, notes)
    else:
        print_json(_data(model_file.model, artifact, result, notes), json_file)


def _data(model: Path, artifact: Path, result: Comparison, notes: list[str]) -> dict[str, Any]:
    from hios_tvm.runtime.machine import describe_machine

    return {
        "model": str(model),
        "artifact": str(artifact),
        "machine": describe_machine().to_data(),
        "reference": result.reference,
        "contestants": [asdict(contestant) for contestant in result.contestants],
        "failures": dict(result.failures),
        "load_of_others": result.others,
        "notes": notes,
    }


def _print(title: str, result: Comparison, notes: list[str]) -> None:
    from hios_tvm.report.words import significant
    from hios_tvm.runtime.machine import describe_machine

    rows = [
        [
            contestant.name,
            significant(contestant.latency.median_ms),
            significant(contestant.latency.spread_ms),
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
