"""What plots and reports show: an artifact, and runs of it on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.options import (
    ArtifactFile,
    Inputs,
    artifact_options,
    option_group,
    shaped_input_options,
    together,
)

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.schema.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How often an artifact is run to be observed."""

    iterations: int
    warmup: int

    def observe(
        self, artifact_file: ArtifactFile, inputs: Inputs
    ) -> tuple[Manifest, BenchmarkResult | None]:
        """Read an artifact, and measure it unless `iterations` is 0."""
        from hios_tvm.measuring.benchmark import benchmark

        if self.iterations == 0:
            return artifact_file.read(), None
        with artifact_file.load(gpu_trace=True) as session:
            arrays = inputs.arrays(session)
            result = benchmark(
                session,
                arrays,
                iterations=self.iterations,
                warmup=self.warmup,
                duration=0.0,
            )
            return session.manifest_of(arrays), result


observation_options = together(
    artifact_options,
    shaped_input_options,
    option_group(
        Runs,
        click.option(
            "--iterations",
            default=50,
            type=click.IntRange(0),
            help="Runs to measure; 0 runs nothing, and shows the prediction alone.",
        ),
        click.option("--warmup", default=10, type=click.IntRange(0), help="Runs before."),
    ),
)
