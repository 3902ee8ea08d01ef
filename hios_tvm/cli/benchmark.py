"""``hios-tvm benchmark``: latency and throughput of an artifact."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.options import (
    EXISTING_FILE,
    cuda_graph_option,
    input_options,
    json_option,
    load_inputs,
    milliseconds,
    print_json,
    print_table,
    stdout,
    timing_options,
    verify_key_option,
)
from hios_tvm.errors import UsageError
from hios_tvm.schema.device_names import split_devices

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.schema.manifest import Manifest

_DIFFERENCES = 5  # operators whose time is furthest from their cost


@click.command("benchmark")
@click.argument("artifact", type=EXISTING_FILE)
@input_options
@timing_options
@click.option(
    "--percentiles", default="50,90,95,99,99.9", show_default=True, help="Latencies to print."
)
@click.option(
    "--concurrency",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Threads that run each session.",
)
@click.option(
    "--sessions",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Sessions that run at the same time, on the same devices.",
)
@click.option("--devices", help="Run on these devices instead of those of the compile.")
@verify_key_option
@cuda_graph_option
@click.option(
    "--emulate",
    is_flag=True,
    help="Let the real executor sleep instead of compute, on as many independent devices as the "
    "artifact has (they need not exist here), and compare with the predicted makespan.",
)
@click.option(
    "--emulate-scale",
    type=click.FloatRange(0, min_open=True),
    help="Factor on all emulated times.  [default: so that kernels take 8 ms on average]",
)
@json_option
def command(
    artifact: Path,
    inputs: tuple[str, ...],
    seed: int,
    value_range: str | None,
    iterations: int,
    warmup: int,
    duration: float,
    percentiles: str,
    concurrency: int,
    sessions: int,
    devices: str | None,
    emulate: bool,
    emulate_scale: float | None,
    verify_key: Path | None,
    cuda_graph: bool,
    json_file: str | None,
) -> None:
    """Measure ARTIFACT: latency percentiles, throughput, how busy each device is, and why.

    Latency is that of a whole run, inputs and outputs included.
    """
    if emulate:
        _emulate(artifact, emulate_scale, verify_key, json_file)
        return
    from hios_tvm import runtime
    from hios_tvm.measuring.benchmark import benchmark
    from hios_tvm.report.explain import bottlenecks
    from hios_tvm.runtime.machine import describe_machine

    remap = None if devices is None else split_devices(devices)
    with ExitStack() as stack:
        group = [
            stack.enter_context(
                runtime.load(artifact, devices=remap, verify_key=verify_key, cuda_graph=cuda_graph)
            )
            for _ in range(sessions)
        ]
        specs = [(spec.name, spec.shape, spec.dtype) for spec in group[0].inputs]
        arrays = load_inputs(inputs, specs, seed, value_range)
        result = benchmark(
            group,
            arrays,
            iterations=iterations,
            warmup=warmup,
            duration=duration,
            concurrency=concurrency,
            percentiles=_numbers(percentiles),
        )
    manifest = group[0].manifest
    if json_file is None:
        _print(artifact, manifest, result)
        return
    data = {
        "artifact": str(artifact),
        "machine": describe_machine().to_data(),
        "predicted_makespan_ms": manifest.prediction.makespan_ms,
        "cost_ms": {item.operator: item.cost_ms for item in manifest.prediction.operators},
        **result.to_data(),
        "notes": bottlenecks(result, manifest),
    }
    print_json(data, json_file)


def _print(artifact: Path, manifest: Manifest, result: BenchmarkResult) -> None:
    from hios_tvm.report.explain import bottlenecks, cost_differences
    from hios_tvm.runtime.machine import describe_machine

    latency, predicted_ms = result.latency, manifest.prediction.makespan_ms
    columns = ["runs", "mean ms", "min ms", "max ms", *latency.percentiles_ms, "runs/s"]
    numbers = (latency.mean_ms, latency.min_ms, latency.max_ms, *latency.percentiles_ms.values())
    row = [str(latency.runs), *(f"{ms:.2f}" for ms in numbers), f"{result.throughput_per_s:.1f}"]
    print_table(str(artifact), columns, [row])
    console = stdout()
    for device, busy in result.busy_ms.items():
        console.print(
            f"{device}: busy {result.busy_share[device]:.0%} of the time, {busy:.2f} ms a run, of "
            f"it {result.copy_ms[device]:.2f} ms copies"
        )
    if result.concurrency == result.sessions == 1:
        if predicted_ms is not None:
            off = latency.median_ms / predicted_ms - 1
            console.print(
                f"predicted {milliseconds(predicted_ms)}, measured "
                f"{milliseconds(latency.median_ms)} ({off:+.1%})"
            )
        differences = cost_differences(manifest, result.operator_ms)[:_DIFFERENCES]
        if differences:
            rows = [item.cells() for item in differences]
            print_table("furthest from their cost", list(differences[0].COLUMNS), rows)
    for line in bottlenecks(result, manifest):
        console.print(line, soft_wrap=True)
    console.print(f"machine: {describe_machine()}", soft_wrap=True)


def _emulate(
    artifact: Path, scale: float | None, verify_key: Path | None, json_file: str | None
) -> None:
    from hios_tvm.measuring.emulate import emulate, emulation_of
    from hios_tvm.runtime.read_artifact import read_manifest

    manifest = read_manifest(artifact, verify_key=verify_key)
    instance, schedule, programs = emulation_of(manifest)
    result = emulate(instance, schedule, programs, scale=scale)
    if json_file is not None:
        print_json({"artifact": str(artifact), **result.to_data()}, json_file)
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
