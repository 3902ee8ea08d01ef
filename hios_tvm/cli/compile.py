"""``hios-tvm compile``: a model in, an artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hios_tvm.cli.options import (
    EXISTING_FILE,
    NEW_FILE,
    json_option,
    milliseconds,
    precision_option,
    print_json,
    print_table,
    stderr,
    stdout,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.errors import UsageError
from hios_tvm.schema.gpu_models import Precision
from hios_tvm.schema.links import LINKS

if TYPE_CHECKING:
    from tvm.ir import IRModule

    from hios_tvm.verification.reference import Reference


@click.command("compile")
@click.argument("model", type=EXISTING_FILE)
@click.option("-o", "--output", type=NEW_FILE, help="Artifact to write.  [default: MODEL.hios]")
@click.option(
    "--devices",
    help="Devices, for example cpu@0,cpu@1 (one core each), cpu@0-3,cpu@4-7, or cuda:0,cuda:1 "
    "(GPUs).  [default: all cores as one device]",
)
@click.option(
    "--target",
    default="host",
    show_default=True,
    help="What to generate code for. A CPU: host, portable (any x86-64-v3), or a name such as "
    "znver4 or neoverse-n1. GPUs: sm_80, sm_90, ...  Both: znver4,sm_90.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME:DIMS",
    help="Shape of an ONNX input with symbolic dimensions, for example input:1,3,224,224. "
    "Repeatable.",
)
@click.option("--params", type=EXISTING_FILE, help="Parameters of a Relay program.")
@click.option(
    "--scheduler",
    default="hios-lp",
    show_default=True,
    help="One that hios-tvm schedule --list names; auto tries the best few out.",
)
@click.option(
    "--memory",
    multiple=True,
    metavar="DEVICE=SIZE",
    help="What weights and activations may take on a device, for example cpu@0=512MiB. "
    "Repeatable.  [default: no limit]",
)
@click.option("--window", type=click.IntRange(1), help="Operators that hios-lp groups at most.")
@click.option("--inter-only", is_flag=True, help="Leave the window out: no stream groups.")
@click.option(
    "--placement",
    type=EXISTING_FILE,
    help="Use this schedule (JSON, from --save-placement or edited by hand), run no scheduler.",
)
@click.option("--save-placement", type=NEW_FILE, help="Write the schedule as JSON.")
@click.option("--costs", type=EXISTING_FILE, help="Schedule with these costs, measure nothing.")
@click.option(
    "--rpc", metavar="HOST:PORT", help="Measure there: a TVM RPC server, or a tracker of servers."
)
@click.option("--rpc-key", default="", help="Key of the RPC server.")
@click.option("--save-costs", type=NEW_FILE, help="Write graph and costs as JSON.")
@click.option(
    "--link",
    type=click.Choice(list(LINKS)),
    default="pcie4",
    show_default=True,
    help="What connects GPUs, where no --costs say.",
)
@precision_option
@click.option(
    "--merge-convolutions",
    is_flag=True,
    help="Also try one convolution in place of several with one input; the faster by prediction "
    "stays.",
)
@click.option(
    "--database",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the tune command: use its kernels where they beat the default ones.",
)
@click.option(
    "--cost-cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of measured costs and compiled kernels.  [default: the user's cache folder]",
)
@click.option("--no-cache", is_flag=True, help="Measure and compile everything anew.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run the artifact on random inputs, where it can run here, and compare it with ONNX "
    "Runtime (a Relay program: with TVM's default executor). Where they differ, nothing is "
    "written, and the first operator that differs is named.",
)
@click.option(
    "--dump-reproducer",
    "reproducer",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Should the artifact be wrong: write the smallest model that shows it into FOLDER, with "
    "inputs, expected outputs and a command, to report it with.",
)
@click.option(
    "--dump-ir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the module after each phase into this folder, as TVMScript.",
)
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@json_option
def command(
    model: Path,
    output: Path | None,
    devices: str | None,
    target: str,
    shapes: tuple[str, ...],
    params: Path | None,
    scheduler: str,
    memory: tuple[str, ...],
    window: int | None,
    inter_only: bool,
    placement: Path | None,
    save_placement: Path | None,
    costs: Path | None,
    rpc: str | None,
    rpc_key: str,
    save_costs: Path | None,
    link: str,
    precision: Precision,
    merge_convolutions: bool,
    database: Path | None,
    cost_cache: Path | None,
    no_cache: bool,
    verify: bool,
    reproducer: Path | None,
    dump_ir: Path | None,
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Compile MODEL (ONNX, or a Relay program) ahead of time into one artifact.

    The kernels are measured on this machine, the operators are scheduled over the devices, and
    the artifact holds code for each device, the weights and the schedule. Measured costs and
    compiled kernels are kept, so that a second compile is quick. Before the artifact is written,
    it is compared with a reference; inspect shows the result, which is kept in the artifact.
    """
    from hios_tvm.compiler import CompileOptions, compile_model
    from hios_tvm.files import atomic_write
    from hios_tvm.frontends import load_model
    from hios_tvm.frontends.shapes import parse_shape
    from hios_tvm.measuring.cache import default_cache_dir
    from hios_tvm.measuring.rpc_costs import RpcAddress
    from hios_tvm.report.explain import compilation_data, device_reports, why_chosen, why_idle
    from hios_tvm.runtime.devices.cpu import default_devices
    from hios_tvm.schema.device_names import parse_device_list
    from hios_tvm.schema.instance import Instance, read_costs
    from hios_tvm.schema.memory_limits import parse_memory
    from hios_tvm.schema.schedule import Schedule

    if reproducer is not None and not verify:
        raise UsageError("--dump-reproducer needs the comparison that --no-verify leaves out")
    scheduler_options = {"window": window} if window is not None else {}
    if inter_only:
        scheduler_options["inter_only"] = True
    names = default_devices() if devices is None else parse_device_list(devices)
    parsed_shapes = dict(parse_shape(shape) for shape in shapes)
    options = CompileOptions(
        devices=tuple(names),
        target=target,
        scheduler=scheduler,
        scheduler_options=scheduler_options,
        memory=dict(parse_memory(limit) for limit in memory),
        schedule=Schedule.from_json(_text(placement)) if placement else None,
        costs=read_costs(costs) if costs else None,
        rpc=RpcAddress.parse(rpc, rpc_key) if rpc else None,
        cache_dir=None if no_cache else cost_cache or default_cache_dir(),
        dump_dir=dump_ir,
        link=link,
        precision=precision,
        merge_convolutions=merge_convolutions,
        database=database,
    )
    path = output or model.with_suffix(".hios")
    with progress_bar(enabled=not no_progress) as progress:
        progress("import", 0, 1)
        module = load_model(model, shapes=parsed_shapes, params=params)
        progress("import", 1, 1)
        result = compile_model(
            module,
            path,
            options,
            name=model.stem,
            reference=_reference(model, module, parsed_shapes) if verify else None,
            reproducer=reproducer,
            progress=progress,
        )
    verification = result.manifest.verification
    if not verification.verified:
        stderr().print(str(verification), soft_wrap=True)
    for note in (*result.notes, *verification.notes):
        stderr().print(note, soft_wrap=True)
    if save_costs is not None:
        Instance(result.graph, result.costs, result.platform).save(save_costs)
    if save_placement is not None:
        with atomic_write(save_placement) as stream:
            stream.write(result.schedule.to_json(indent=1).encode())

    reports = device_reports(result)
    if json_file is not None:
        data = compilation_data(result, path, schedule_given=placement is not None)
        print_json(data, json_file)
    else:
        rows = [report.cells() for report in reports]
        print_table(f"{path}: {result.schedule.scheduler}", list(reports[0].COLUMNS), rows)
        console = stdout()
        console.print(
            f"predicted makespan {milliseconds(result.timeline.makespan_ms)}; compiled in "
            f"{sum(result.seconds.values()):.0f} s ("
            + ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
            + ")"
        )
        idle = why_idle(result, schedule_given=placement is not None)
        for line in [*why_chosen(result), *idle]:
            console.print(line)
        if verification.verified:
            console.print(str(verification), soft_wrap=True)


def _text(path: Path) -> str:
    return path.read_text(errors="replace")  # broken text is reported as broken JSON


def _reference(model: Path, module: IRModule, shapes: dict[str, tuple[int, ...]]) -> Reference:
    """Return what the artifact is compared with."""
    if model.suffix == ".onnx":
        from hios_tvm.verification.onnx_reference import OnnxReference

        return OnnxReference(model, shapes)
    from hios_tvm.verification.relax_reference import RelaxReference

    return RelaxReference(module)
