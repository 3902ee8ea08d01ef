"""What plots and reports show: an artifact, and runs of it on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hios_tvm.cli.options import input_options, load_inputs, verify_key_option
from hios_tvm.schema.device_names import split_devices

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.schema.manifest import Manifest

F = TypeVar("F", bound=Callable[..., Any])


def observation_options(function: F) -> F:
    """Take the options that `observe` needs."""
    for option in (
        verify_key_option,
        click.option("--devices", help="Run on these devices instead of those of the compile."),
        click.option(
            "--warmup", default=10, show_default=True, type=click.IntRange(0), help="Runs before."
        ),
        click.option(
            "--iterations",
            default=50,
            show_default=True,
            type=click.IntRange(0),
            help="Runs to measure; 0 runs nothing, and shows the prediction alone.",
        ),
        input_options,
    ):
        function = option(function)
    return function


def observe(
    artifact: Path,
    *,
    inputs: tuple[str, ...],
    seed: int,
    value_range: str | None,
    iterations: int,
    warmup: int,
    devices: str | None,
    verify_key: Path | None,
) -> tuple[Manifest, BenchmarkResult | None]:
    """Read an artifact, and measure it unless `iterations` is 0."""
    from hios_tvm import runtime
    from hios_tvm.measuring.benchmark import benchmark
    from hios_tvm.runtime.read_artifact import read_manifest

    if iterations == 0:
        return read_manifest(artifact, verify_key=verify_key), None
    remap = None if devices is None else split_devices(devices)
    with runtime.load(artifact, devices=remap, verify_key=verify_key, gpu_trace=True) as session:
        specs = [(spec.name, spec.shape, spec.dtype) for spec in session.inputs]
        arrays = load_inputs(inputs, specs, seed, value_range)
        result = benchmark(session, arrays, iterations=iterations, warmup=warmup, duration=0.0)
        return session.manifest, result
