"""``hios-tvm compile``: a model in, an artifact out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hios_tvm.cli.compilation import print_compilation
from hios_tvm.cli.console import stderr
from hios_tvm.cli.devices import require_here
from hios_tvm.cli.interrupts import keep_on_interrupt
from hios_tvm.cli.numbers import FiniteRange
from hios_tvm.cli.options import (
    EXISTING_FILE,
    FOLDER,
    NEW_FILE,
    ModelFile,
    cost_cache_option,
    json_option,
    max_memory_option,
    model_options,
    no_progress_option,
    option_group,
    rtol_option,
    scheduler_options,
)
from hios_tvm.cli.progress import progress_bar
from hios_tvm.cli.settings import Settings, setting_options
from hios_tvm.errors import UsageError
from hios_tvm.schema.device_names import parse_device_list
from hios_tvm.schema.links import LINKS
from hios_tvm.schema.memory_limits import parse_memory

if TYPE_CHECKING:
    from tvm.ir import IRModule

    from hios_tvm.compiler import Compilation, CompileOptions
    from hios_tvm.compiler.source import ModelSource
    from hios_tvm.schema.node_placement import NodePlacement
    from hios_tvm.verification.reference import Reference


@dataclass(frozen=True, kw_only=True)
class CostSource:
    """Where costs come from, and where they and compiled kernels are kept."""

    costs: Path | None
    rpc: str | None
    rpc_key: str
    link: str
    cost_cache: Path | None
    no_cache: bool

    @property
    def measures_here(self) -> bool:
        """Whether costs are measured on this machine."""
        return self.costs is None and self.rpc is None


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether the artifact is compared with a reference, and where its faults are written."""

    verify: bool
    rtol: float | None
    dump_reproducer: Path | None

    def __post_init__(self) -> None:
        for option, value in (("--dump-reproducer", self.dump_reproducer), ("--rtol", self.rtol)):
            if value is not None and not self.verify:
                raise UsageError(f"{option} needs the comparison that --no-verify leaves out")

    def reference(self, source: ModelSource, module: IRModule) -> Reference | None:
        """Return what the artifact is compared with, and say now if that is not installed."""
        if not self.verify:
            return None
        reference = source.reference(module)
        try:
            _ = reference.runner
        except UsageError as error:
            stderr().print(f"the artifact will not be verified: {error}", soft_wrap=True)
        return reference


@dataclass(frozen=True, kw_only=True)
class Results:
    """Files to write beside the artifact."""

    save_placement: Path | None
    save_costs: Path | None
    dump_ir: Path | None

    def save(self, result: Compilation) -> None:
        """Write the schedule and the costs where they are asked for."""
        from hios_tvm.files import atomic_write
        from hios_tvm.schema.instance import Instance

        if self.save_costs is not None and result.costs and result.platform:
            Instance(result.graph, result.costs, result.platform).save(self.save_costs)
        if self.save_placement is not None:
            with atomic_write(self.save_placement) as stream:
                stream.write(result.schedule.to_json(indent=1).encode())


cost_options = option_group(
    CostSource,
    click.option("--costs", type=EXISTING_FILE, help="Use these costs, measure nothing."),
    click.option(
        "--rpc",
        metavar="HOST:PORT",
        help="Measure there: a TVM RPC server, or a tracker of servers.",
    ),
    click.option("--rpc-key", default="", show_default=False, help="Key of the RPC server."),
    click.option(
        "--link",
        type=click.Choice(list(LINKS)),
        default="pcie4",
        help="What connects GPUs, where no --costs say.",
    ),
    cost_cache_option,
    click.option("--no-cache", is_flag=True, help="Measure and compile everything anew."),
)

check_options = option_group(
    Check,
    click.option(
        "--verify/--no-verify",
        default=True,
        help="Run the artifact on random inputs, where it can run here, and compare it with ONNX "
        "Runtime (a Relay program: with TVM's default executor). Where they differ, nothing is "
        "written, and the first operator that differs is named.",
    ),
    rtol_option,
    click.option(
        "--dump-reproducer",
        type=FOLDER,
        metavar="FOLDER",
        help="Should the artifact be wrong: write the smallest model that shows it into FOLDER, "
        "with inputs, expected outputs and a command, to report it with.",
    ),
)

result_options = option_group(
    Results,
    click.option("--save-placement", type=NEW_FILE, help="Write the schedule as JSON."),
    click.option("--save-costs", type=NEW_FILE, help="Write graph and costs as JSON."),
    click.option(
        "--dump-ir",
        type=FOLDER,
        help="Write the module after each phase into this folder, as TVMScript.",
    ),
)


@click.command("compile")
@model_options
@click.option("-o", "--output", type=NEW_FILE, help="Artifact to write.  [default: MODEL.hios]")
@click.option(
    "--programs",
    metavar="SIZES",
    help="Sizes of a batch 1..8 that get a program, such as 2,4,8; those between run on the next "
    "larger one.  [default: all of up to four, else both ends and powers of two]",
)
@setting_options
@scheduler_options
@cost_options
@check_options
@result_options
@max_memory_option
@click.option(
    "--max-steps",
    type=FiniteRange(1),
    metavar="NUMBER",
    help="Of the innermost loops of one operator, for example 1e11, which take minutes: a model "
    "with more is refused.  [default: 1e14, a day]",
)
@no_progress_option
@json_option
def command(
    model_file: ModelFile,
    output: Path | None,
    programs: str | None,
    settings: Settings,
    options: dict[str, Any],
    cost_source: CostSource,
    check: Check,
    results: Results,
    max_memory: int | None,
    max_steps: float | None,
    no_progress: bool,
    json_file: str | None,
) -> None:
    """Compile MODEL (ONNX, or a Relay program) ahead of time into one artifact.

    The kernels are measured on this machine, the operators are scheduled over the devices, and
    the artifact holds code for each device, the weights and the schedule. Measured costs and
    compiled kernels are kept, so that a second compile is quick. Before the artifact is written,
    it is compared with a reference; inspect shows the result, which is kept in the artifact.
    """
    placement = settings.node_placement(model_file)
    is_placed = placement is not None or settings.placement is not None
    if cost_source.measures_here and settings.devices is not None and not is_placed:
        require_here(parse_device_list(settings.devices))
    limits = dict(parse_memory(limit) for limit in settings.memory)

    from hios_tvm.compiler import compile_model
    from hios_tvm.compiler.shapes import compile_shapes
    from hios_tvm.compiler.source import ModelSource
    from hios_tvm.frontends.shapes import one_shape, several_shapes
    from hios_tvm.passes.check_work import work_limit
    from hios_tvm.runtime.memory_limit import memory_limit

    chosen = _compile_options(
        settings, placement, options, cost_source, results, limits, check.rtol
    )
    if results.save_costs is not None and chosen.is_placed and chosen.costs is None:
        raise UsageError(
            "--save-costs has nothing to write: with --placement nothing is measured, nor where "
            "the model is placed; give --costs too, or leave one of them out"
        )
    path = output or model_file.model.with_suffix(".hios")
    kept = "nothing" if cost_source.no_cache else "measured costs and compiled kernels"
    keep_on_interrupt(f"{path} is not written; kept is {kept}")
    sizes = model_file.sizes
    several = several_shapes(sizes, _numbers(programs))
    most = None if max_steps is None else int(max_steps)
    with (
        memory_limit(max_memory),
        work_limit(most),
        progress_bar(enabled=not no_progress) as progress,
    ):
        if len(several.shapes) > 1 or several.batch:
            source = ModelSource(model_file.model, {}, model_file.params)
            result = compile_shapes(
                source,
                several,
                path,
                chosen,
                name=model_file.model.stem,
                compared=check.verify,
                reproducer=check.dump_reproducer,
                progress=progress,
            )
        else:
            source = ModelSource(model_file.model, one_shape(sizes), model_file.params)
            progress("import", 0, 1)
            module = source.module()
            progress("import", 1, 1)
            result = compile_model(
                module,
                path,
                chosen,
                name=model_file.model.stem,
                reference=check.reference(source, module),
                reproducer=check.dump_reproducer,
                progress=progress,
            )
    results.save(result)
    print_compilation(result, path, chosen, json_file)


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        raise UsageError(f"--programs {text}: write sizes, for example 1,4,8")
    return [int(word) for word in text.split(",")]


def _compile_options(
    settings: Settings,
    placement: NodePlacement | None,
    options: dict[str, Any],
    source: CostSource,
    results: Results,
    limits: dict[str, int],
    rtol: float | None,
) -> CompileOptions:
    from hios_tvm.compiled_code import default_cache_dir
    from hios_tvm.compiler import CompileOptions
    from hios_tvm.measuring.rpc_costs import RpcAddress
    from hios_tvm.schema.instance import read_costs

    schedule = settings.schedule()
    devices = settings.device_names(schedule, placement)
    return CompileOptions(
        devices=devices,
        divide=settings.divide,
        target=settings.target,
        precision=settings.precision,
        objective=settings.objective,
        scheduler=settings.scheduler,
        scheduler_options=options,
        memory=limits,
        schedule=schedule,
        placement=placement,
        costs=read_costs(source.costs) if source.costs else None,
        link=source.link,
        rpc=RpcAddress.parse(source.rpc, source.rpc_key) if source.rpc else None,
        cache_dir=None if source.no_cache else source.cost_cache or default_cache_dir(),
        merge_convolutions=settings.merge_convolutions,
        rtol=rtol,
        dump_dir=results.dump_ir,
        database=settings.database,
    )
