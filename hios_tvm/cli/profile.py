"""``hios-tvm profile``: measure on a machine that has no compiler."""

import json
from pathlib import Path

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import (
    EXISTING_FILE,
    NEW_FILE,
    ModelFile,
    json_option,
    model_options,
    no_progress_option,
    precision_option,
    print_json,
    verify_key_option,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.schema.device_names import split_devices
from hios_tvm.schema.precisions import Precision


@click.group("profile")
def command() -> None:
    """Measure kernels on the machine that will run them, without a compiler there.

    \b
    hios-tvm profile export model.onnx -o kernels.hios       # where the compiler is
    hios-tvm profile run kernels.hios -o costs.json --devices cpu@0,cpu@1   # where it will run
    hios-tvm compile model.onnx --costs costs.json --devices cpu@0,cpu@1    # where the compiler is

    All three need the same --target and --precision; the second also runs as
    python -m hios_tvm.measuring.artifact_costs, which needs no compiler.
    """


@command.command("export")
@model_options
@click.option("-o", "--output", type=NEW_FILE, help="File to write.  [default: MODEL.kernels.hios]")
@click.option("--target", default="host", help="As in hios-tvm compile.")
@precision_option
@click.option("--no-cache", is_flag=True, help="Compile all kernels again.")
@no_progress_option
def export(
    model_file: ModelFile,
    output: Path | None,
    target: str,
    precision: Precision,
    no_cache: bool,
    no_progress: bool,
) -> None:
    """Write the kernels of MODEL, without weights and without a schedule."""
    from hios_tvm.compiled_code import default_cache_dir
    from hios_tvm.measuring.kernel_export import export_kernels

    path = output or model_file.model.with_suffix(".kernels.hios")
    with progress_bar(enabled=not no_progress) as progress:
        export_kernels(
            model_file.load(),
            path,
            target=target,
            precision=precision,
            name=model_file.model.stem,
            cache_dir=None if no_cache else default_cache_dir(),
            progress=progress,
        )
    stdout().print(f"{path}: measure it with hios-tvm profile run", soft_wrap=True)


@command.command("run")
@click.argument("kernels", type=EXISTING_FILE)
@click.option("-o", "--output", type=NEW_FILE, default=Path("costs.json"))
@click.option("--devices", help="As in hios-tvm compile.  [default: all cores as one device]")
@verify_key_option
@no_progress_option
@json_option
def run(
    kernels: Path,
    output: Path,
    devices: str | None,
    verify_key: Path | None,
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Measure KERNELS (or any other artifact) on this machine, and write the costs."""
    from hios_tvm.measuring.artifact_costs import measure_artifact, write_costs

    names = [] if devices is None else split_devices(devices)
    with progress_bar(enabled=not no_progress) as progress:
        costs, graph = measure_artifact(
            kernels,
            names,
            verify_key=verify_key,
            progress=lambda done, total: progress("measure", done, total),
        )
    write_costs(costs, graph, output)
    if json_file is not None:
        print_json(json.loads(costs.to_json(graph)), json_file)
        return
    independence = 1.0 if costs.platform is None else costs.platform.independence
    for model, times in costs.latency.items():
        total = sum(time.ms for time in times.values())
        stdout().print(f"{model}: {len(times)} operators, {total:.2f} ms one after another")
    stdout().print(f"independence {independence:.2f}; {output} is for compile --costs")
