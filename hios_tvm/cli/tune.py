"""``hios-tvm tune``: a search for kernels that beat the default ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.devices import DeviceList
from hios_tvm.cli.interrupts import keep_on_interrupt
from hios_tvm.cli.numbers import FiniteRange
from hios_tvm.cli.options import (
    FOLDER,
    ModelFile,
    cost_cache_option,
    json_option,
    model_options,
    no_progress_option,
    print_json,
    print_table,
)
from hios_tvm.cli.progress import progress_bar

if TYPE_CHECKING:
    from hios_tvm.backends.cpu.tuning_database import TunedKernel
    from hios_tvm.tuning.tuner import KernelToTune, TuningPlan


@click.command("tune")
@model_options
@click.option(
    "--database",
    required=True,
    type=FOLDER,
    help="Folder that keeps every trial; compile --database uses it.",
)
@click.option(
    "--trials",
    default=64,
    type=click.IntRange(1),
    help="Candidates of each kernel, with those that the database holds already.",
)
@click.option(
    "--share",
    default=0.8,
    type=FiniteRange(0, 1, min_open=True),
    help="Tune the kernels that take this share of the model's time, the slowest first.",
)
@click.option(
    "--device",
    type=DeviceList(),
    help="Device to tune on, for example cpu@0 or cpu@0-3; what is found serves devices with as "
    "many cores.  [default: all cores]",
)
@click.option("--target", default="host", help="As in the compile command.")
@cost_cache_option
@no_progress_option
@json_option
def command(
    model_file: ModelFile,
    database: Path,
    trials: int,
    share: float,
    device: str | None,
    target: str,
    cost_cache: Path | None,
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Search for kernels of MODEL that beat the default ones, with TVM's MetaSchedule.

    Every trial is kept at once: the command may be interrupted at any time, and run again to
    continue. Kernels whose results differ from the default kernel's are never used.
    """
    from hios_tvm.compiled_code import default_cache_dir
    from hios_tvm.runtime.devices.cpu.cores import default_devices
    from hios_tvm.tuning.tuner import TuneOptions, plan_tuning, tune_kernel

    options = TuneOptions(
        device=device or default_devices()[0],
        database=database,
        trials=trials,
        share=share,
        target=target,
        cache_dir=cost_cache or default_cache_dir(),
    )
    results: list[tuple[KernelToTune, TunedKernel | None]] = []
    console = stderr()
    keep_on_interrupt(f"{database} keeps all trials: run again to continue")
    with progress_bar(enabled=not no_progress) as progress:
        module = model_file.load()
        plan = plan_tuning(module, options, name=model_file.model.stem, progress=progress)
        if any(kernel.known for kernel in plan.kernels):
            done = sum(min(kernel.known, trials) for kernel in plan.kernels)
            console.print(
                f"{database} holds {done} of {trials * len(plan.kernels)} trials: "
                "continuing from there",
                soft_wrap=True,
            )
        for kernel in plan.kernels:
            results.append((kernel, tune_kernel(plan, kernel, options, progress=progress)))
    if json_file is not None:
        print_json(_data(plan, results), json_file)
    else:
        _print(model_file.model, plan, results, options.device)


def _print(
    model: Path,
    plan: TuningPlan,
    results: list[tuple[KernelToTune, TunedKernel | None]],
    device: str,
) -> None:
    from hios_tvm.report.words import milliseconds, significant

    rows = []
    for kernel, tuned in results:
        row = [kernel.name, str(kernel.calls)]
        if tuned is None:
            row += ["0", significant(kernel.ms), "-", "-", "default"]
        else:
            row += [
                str(tuned.trials),
                significant(tuned.default_ms),
                significant(tuned.ms),
                f"{tuned.default_ms / tuned.ms:.2f}x",
                "tuned" if tuned.wins else "default",
            ]
        rows.append(row)
    columns = ["kernel", "calls", "trials", "default ms", "tuned ms", "speed-up", "used"]
    print_table(f"{model.name} on {device}", columns, rows)
    before, after = plan.total_ms, plan.tuned_ms()
    stdout().print(
        f"all kernels of the model, one after another: {milliseconds(before)} with default "
        f"kernels, {milliseconds(after)} with tuned ones ({before / after:.2f}x)",
        soft_wrap=True,
    )


def _data(
    plan: TuningPlan, results: list[tuple[KernelToTune, TunedKernel | None]]
) -> dict[str, Any]:
    kernels = []
    for kernel, tuned in results:
        entry: dict[str, Any] = {"name": kernel.name, "calls": kernel.calls}
        if tuned is not None:
            fields = asdict(tuned)
            entry |= {name: fields[name] for name in ("trials", "default_ms", "ms", "machine")}
            entry["used"] = tuned.wins
        kernels.append(entry)
    return {"kernels": kernels, "default_ms": plan.total_ms, "tuned_ms": plan.tuned_ms()}
