"""The whole way of a model: from a Relax module to an artifact that was verified."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tvm.ir import IRModule

from hios_tvm import runtime
from hios_tvm.artifact.write import Package
from hios_tvm.backends import backend_of, parse_targets
from hios_tvm.backends.cpu.features import cpu_features
from hios_tvm.backends.cpu.tuned_kernels import TunedChoice, choose_tuned
from hios_tvm.backends.network import Network, lower_network
from hios_tvm.build import (
    Compilation,
    CompileOptions,
    Progress,
    build_artifact,
    measured_costs,
    phase,
)
from hios_tvm.files import check_writable
from hios_tvm.schedulers import make_schedule, options_of
from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import (
    device_kind,
    of_kind,
    parse_cores,
)
from hios_tvm.schema.graph import Operator, OperatorGraph
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
from hios_tvm.verification.deviation import Arrays
from hios_tvm.verification.first_difference import Compile, Observation
from hios_tvm.verification.judgement import model_tolerance
from hios_tvm.verification.reproducer import Recipe
from hios_tvm.verification.verifier import NOT_ASKED_FOR, OneDevice, verify

if TYPE_CHECKING:
    from hios_tvm.verification.reference import Reference

__all__ = [
    "Compilation",
    "CompileOptions",
    "Network",
    "compile_model",
    "compile_network",
    "lower_network",
]


def compile_model(
    mod: IRModule,
    output: Path,
    options: CompileOptions,
    *,
    name: str = "model",
    reference: Reference | None = None,
    reproducer: Path | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Compilation:
    """Compile a frontend's module and write the artifact to `output`.

    The file appears when everything has succeeded, never before.

    Parameters
    ----------
    mod : IRModule
    output : Path
    options : CompileOptions
    name : str
        The model's, for reports.
    reference : Reference, optional
        Such as an `OnnxReference` of the same model. The artifact is run on random inputs and
        compared with it, where it can run here, and the manifest says what came of it.
    reproducer : Path, optional
        Folder for the smallest model that differs, should the artifact be wrong.

    Raises
    ------
    UsageError, CostError, ScheduleError, CompileError
        Where an option, the costs, the schedule or code generation is at fault.
    VerificationError
        If outputs differ from the reference's: nothing is written then.
    """
    check_writable(output)  # like the options, before work is spent
    options_of(options.scheduler, **options.scheduler_options)
    seconds: dict[str, float] = {}
    notes: list[str] = []
    with phase("lower", seconds, progress):
        network = _lower(mod, name, options)
    if options.merge_convolutions:
        with phase("merge convolutions", seconds, progress):
            network = _merged_if_faster(mod, network, options, notes, progress)
    compilation, package = build_artifact(network, options, progress=progress)
    seconds |= compilation.seconds
    verification = NOT_ASKED_FOR
    if reference is not None:
        with phase("verify", seconds, progress):
            verification = verify(
                package,
                output,
                mod,
                reference,
                features=cpu_features(network.host),
                tolerance=model_tolerance(mod, options.precision),
                devices=_one_of_each_kind(network, compilation, options),
                reproducer=reproducer,
            )
    with phase("write", seconds, progress):
        manifest = replace(package.manifest, verification=verification)
        replace(package, manifest=manifest).write(output)
    return replace(
        compilation,
        manifest=manifest,
        seconds=seconds,
        notes=(*notes, *compilation.notes),
    )


def _lower(
    mod: IRModule, name: str, options: CompileOptions, *, merge_convolutions: bool = False
) -> Network:
    targets = parse_targets(options.target, options.devices, options.precision)
    return lower_network(
        mod,
        *targets.values(),
        name=name,
        merge_convolutions=merge_convolutions,
        dump_dir=options.dump_dir,
        choose=_choice_of(options),
    )


def _choice_of(options: CompileOptions) -> Callable[..., TunedChoice] | None:
    if options.database is None:
        return None
    threads = [len(parse_cores(device)) for device in of_kind("cpu", options.devices)]
    return partial(choose_tuned, folder=options.database, threads=threads)


def _merged_if_faster(
    mod: IRModule,
    network: Network,
    options: CompileOptions,
    notes: list[str],
    progress: Progress,
) -> Network:
    """Return the network with merged convolutions, or `network` where that is faster."""
    merged = _lower(mod, network.graph.name, options, merge_convolutions=True)
    counts = [
        sum("conv2d" in op.kernel for op in candidate.graph.operators)
        for candidate in (network, merged)
    ]
    if counts[0] == counts[1]:
        notes.append("no two convolutions of the network can be merged")
        return network
    apart_ms, merged_ms = (
        _predicted_ms(candidate, options, progress) for candidate in (network, merged)
    )
    is_faster = merged_ms < apart_ms
    notes.append(
        f"{counts[0]} convolutions merged into {counts[1]} should take {merged_ms:.3f} ms, apart "
        f"{apart_ms:.3f} ms: {'merged' if is_faster else 'left apart'}"
    )
    return merged if is_faster else network


def _predicted_ms(network: Network, options: CompileOptions, progress: Progress) -> float:
    costs, platform = measured_costs(network, options, progress)
    arguments = (network.graph, costs, platform.with_memory(options.memory))
    schedule = make_schedule(options.scheduler, *arguments, **options.scheduler_options)
    return evaluate(*arguments, schedule).makespan_ms


def compile_network(
    network: Network,
    output: Path,
    options: CompileOptions,
    *,
    info: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda phase, done, total: None,
) -> Compilation:
    """Compile what `lower_network` returned for ``options.target``, and write the artifact.

    It is not verified. `info` is added to the manifest's `compile_info`.

    Raises
    ------
    UsageError, CostError, ScheduleError, CompileError
        As `compile_model`.
    """
    check_writable(output)
    compilation, package = build_artifact(network, options, info=info, progress=progress)
    seconds = dict(compilation.seconds)
    with phase("write", seconds, progress):
        package.write(output)
    return replace(compilation, seconds=seconds)


def _one_of_each_kind(
    network: Network, compilation: Compilation, options: CompileOptions
) -> list[OneDevice]:
    """Return how parts of the model are compiled for one busy device of each kind."""
    busy = [device.device for device in compilation.schedule if device.stages]
    first = {device_kind(device): device for device in reversed(busy)}
    merged = network.merge_convolutions
    return [
        OneDevice(
            Recipe(device, options.target, options.precision, options.database, merged),
            _compiler_of_parts(device, options, merged),
        )
        for device in first.values()
    ]


def _compiler_of_parts(device: str, options: CompileOptions, merge_convolutions: bool) -> Compile:
    """Return what compiles a part of the model as the whole was, but for `device` alone."""
    lowering = replace(options, dump_dir=None)

    def compile_and_run(mod: IRModule, draws: Sequence[Arrays]) -> Observation:
        network = _lower(mod, "part", lowering, merge_convolutions=merge_convolutions)
        _, package = build_artifact(network, _one_after_another(network, device, options))
        kernels = tuple(_call(network.graph, op) for op in network.graph.operators)
        return Observation(_outputs(package, draws), kernels)

    return compile_and_run


def _outputs(package: Package, draws: Sequence[Arrays]) -> tuple[Arrays, ...]:
    with package.temporary(Path(tempfile.gettempdir(), "part.hios")) as path:
        session = runtime.load(path)
    with session:
        return tuple(session.run(inputs) for inputs in draws)


def _one_after_another(network: Network, device: str, options: CompileOptions) -> CompileOptions:
    """Return options that put all operators on `device` and measure nothing."""
    stages = tuple(Stage(((operator.name,),)) for operator in network.graph.operators)
    model = backend_of(device).model(device, network.on(device).target)
    times = {operator.name: Measurement(1.0) for operator in network.graph.operators}
    return CompileOptions(
        devices=(device,),
        target=options.target,
        precision=options.precision,
        schedule=Schedule("sequential", (DeviceSchedule(device, stages),)),
        costs=CostTable({model: times}, platform=Platform.uniform(1)),
        cache_dir=options.cache_dir,
    )


def _call(graph: OperatorGraph, operator: Operator) -> str:
    """Write a call of a kernel: ``relu(float32[1, 8]) -> float32[1, 8]``."""

    def types(tensors: Sequence[str]) -> str:
        found = [graph.tensor[name] for name in tensors]
        return ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in found)

    return f"{operator.kernel}({types(operator.inputs)}) -> {types(operator.outputs)}"
