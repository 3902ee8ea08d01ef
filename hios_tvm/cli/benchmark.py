"""``hios-tvm benchmark``: latency and throughput of an artifact."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.numbers import FiniteRange
from hios_tvm.cli.options import (
    ArtifactFile,
    Inputs,
    artifact_options,
    cuda_graph_option,
    json_option,
    print_json,
    print_table,
    shaped_input_options,
)
from hios_tvm.errors import UsageError

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.schema.manifest import Manifest

_DIFFERENCES = 5  # operators whose time is furthest from their cost


@click.command("benchmark")
@artifact_options
@shaped_input_options
@click.option(
    "--iterations", default=50, type=click.IntRange(1), help="Measure at least this many runs."
)
@click.option(
    "--duration",
    default=3.0,
    type=FiniteRange(0),
    help="Measure for at least this many seconds.",
)
@click.option("--warmup", default=10, type=click.IntRange(0), help="Runs before measuring.")
@click.option("--percentiles", default="50,90,95,99,99.9", help="Latencies to print.")
@click.option(
    "--concurrency", default=1, type=click.IntRange(1), help="Threads that run each session."
)
@click.option(
    "--sessions",
    default=1,
    type=click.IntRange(1),
    help="Sessions that run at the same time, on the same devices.",
)
@cuda_graph_option
@click.option(
    "--emulate",
    is_flag=True,
    help="Let the real executor sleep instead of compute, on as many independent devices as the "
    "artifact has (they need not exist here), and compare with the predicted makespan.",
)
@click.option(
    "--emulate-scale",
    type=FiniteRange(0, min_open=True),
    help="Factor on all emulated times.  [default: so that kernels take 8 ms on average]",
)
@json_option
def command(
    artifact_file: ArtifactFile,
    inputs: Inputs,
    iterations: int,
    warmup: int,
    duration: float,
    percentiles: str,
    concurrency: int,
    sessions: int,
    emulate: bool,
    emulate_scale: float | None,
    cuda_graph: bool | None,
    json_file: str | None,
) -> None:
    """Measure ARTIFACT: latency percentiles, throughput, how busy each device is, and why.

    Latency is that of a whole run, inputs and outputs included.
    """
    if emulate:
        _emulate(artifact_file, emulate_scale, json_file)
        return
    from hios_tvm.measuring.benchmark import benchmark

    with ExitStack() as stack:
        loaded = (artifact_file.load(cuda_graph=cuda_graph) for _ in range(sessions))
        group = [stack.enter_context(session) for session in loaded]
        arrays = inputs.arrays(group[0])
        manifest = group[0].manifest_of(arrays)
        result = benchmark(
            group,
            arrays,
            iterations=iterations,
            warmup=warmup,
            duration=duration,
            concurrency=concurrency,
            percentiles=_numbers(percentiles),
        )
    if json_file is None:
        _print(artifact_file.artifact, manifest, result)
    else:
        print_json(_data(artifact_file.artifact, manifest, result), json_file)


def _data(artifact: Path, manifest: Manifest, result: BenchmarkResult) -> dict[str, Any]:
    from hios_tvm.report.explain import bottlenecks
    from hios_tvm.runtime.machine import describe_machine

    return {
        "artifact": str(artifact),
        "machine": describe_machine().to_data(),
        "predicted_makespan_ms": manifest.prediction.makespan_ms,
        "cost_ms": {item.operator: item.cost_ms for item in manifest.prediction.operators},
        **result.to_data(),
        "notes": bottlenecks(result, manifest),
    }


def _print(artifact: Path, manifest: Manifest, result: BenchmarkResult) -> None:
    from hios_tvm.report.explain import bottlenecks, cost_differences
    from hios_tvm.report.words import milliseconds, significant
    from hios_tvm.runtime.machine import describe_machine

    latency, predicted_ms = result.latency, manifest.prediction.makespan_ms
    columns = ["runs", "mean ms", "min ms", "max ms", *latency.percentiles_ms, "runs/s"]
    numbers = (latency.mean_ms, latency.min_ms, latency.max_ms, *latency.percentiles_ms.values())
    row = [str(latency.runs), *map(significant, numbers), significant(result.throughput_per_s)]
    print_table(str(artifact), columns, [row])
    console = stdout()
    for device, busy in result.busy_ms.items():
        console.print(
            f"{device}: busy {result.busy_share[device]:.0%} of the time, "
            f"{milliseconds(busy)} a run, of it {milliseconds(result.copy_ms[device])} copies"
        )
    if result.concurrency == result.sessions == 1:
        if predicted_ms is not None:
            off = latency.median_ms / predicted_ms - 1
            console.print(
                f"predicted {milliseconds(predicted_ms)}, measured "
                f"{milliseconds(latency.median_ms)} ({off:+.0%})"
            )
        differences = cost_differences(manifest, result.operator_ms)[:_DIFFERENCES]
        if differences:
            rows = [item.cells() for item in differences]
            print_table("furthest from their cost", list(differences[0].COLUMNS), rows)
    for line in bottlenecks(result, manifest):
        console.print(line, soft_wrap=True)
    console.print(f"machine: {describe_machine()}", soft_wrap=True)


def _emulate(artifact_file: ArtifactFile, scale: float | None, json_file: str | None) -> None:
    from hios_tvm.measuring.emulate import emulate, emulation_of
    from hios_tvm.report.words import milliseconds

    result = emulate(*emulation_of(artifact_file.read()), scale=scale)
    if json_file is not None:
        print_json({"artifact": str(artifact_file.artifact), **result.to_data()}, json_file)
        return
    stdout().print(
        f"{result.devices} emulated devices, independent of each other: predicted "
        f"{milliseconds(result.predicted_ms)}, measured "
        f"{milliseconds(result.latency.median_ms)} ({result.ratio - 1:+.1%}; fastest "
        f"{result.latency.min_ms / result.predicted_ms - 1:+.1%}; "
        f"{result.latency.runs} runs, times stretched by {result.scale:.4g})",
        soft_wrap=True,
    )


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--percentiles {text}: write numbers, for example 50,90,99") from None
    if not all(0 <= number <= 100 for number in numbers):
        raise UsageError(f"--percentiles {text}: each must be between 0 and 100")
    return numbers
