"""What a network becomes: costs, a schedule, code for each device, and an artifact of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tvm
from tvm.ir import IRModule

from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.artifact.programs import Partition, partition_by_device
from hios_tvm.artifact.write import Package, pack, predicted, write_artifact
from hios_tvm.backends import BACKENDS, backend_of, kind_of
from hios_tvm.backends.cpu.tuned_kernels import TunedChoice
from hios_tvm.backends.interface import DeviceCode
from hios_tvm.backends.network import Network, apply_pass
from hios_tvm.errors import ScheduleError, UsageError
from hios_tvm.measuring.cache import default_cache_dir, kernel_dir
from hios_tvm.measuring.contest import MeasuredSchedule, choose_entrants, run_contest
from hios_tvm.measuring.network_costs import network_costs
from hios_tvm.measuring.rpc_costs import RpcAddress
from hios_tvm.passes.annotate_schedule import AnnotateSchedule
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.schedulers import evaluated, make_schedule, options_of
from hios_tvm.schedulers.auto import candidates
from hios_tvm.schedulers.evaluate import Timeline, evaluate
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import device_kind
from hios_tvm.schema.gpu_models import Precision
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.manifest import DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule
from hios_tvm.version import __version__

__all__ = ["Compilation", "CompileOptions", "Progress", "build_artifact", "measured_costs", "phase"]

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the steps done and the steps in all."""


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What `compile_model` does.

    Attributes
    ----------
    devices : tuple of str
        Devices to compile for, such as ``("cpu@0", "cpu@1")``.
    target : str
        What to generate code for: ``host``, ``portable`` or the name of a CPU, ``sm_90`` or another
        architecture of GPUs, or both with a comma between them (`parse_targets`).
    precision : str
        How GPUs multiply in convolutions and products: ``fp32``, or rounded to ``tf32`` or
        ``fp16`` on tensor cores, with sums in single precision.
    scheduler, scheduler_options
        Name in `hios_tvm.schedulers.SCHEDULERS`, and the options of that scheduler.
    memory : mapping of str to int
        Bytes that weights and activations may take, by device; no limit where absent.
    schedule : Schedule, optional
        A schedule made elsewhere, used instead of a scheduler.
    costs : CostTable, optional
        Times to schedule with; without it they are measured on this machine, and estimated for
        GPUs.
    link : str
        What connects GPUs where `costs` do not say: a name in `LINKS`.
    rpc : RpcAddress, optional
        Where to measure instead: a TVM RPC server or tracker.
    cache_dir : Path, optional
        Folder of measured costs and compiled kernels; None keeps nothing.
    merge_convolutions : bool
        Also try the network with one convolution in place of several with one input, and keep
        what is faster by prediction. It takes measured costs of both.
    dump_dir : Path, optional
        Where to write the module after each phase, as TVMScript.
    database : Path, optional
        Folder of a tuning database: kernels in it that beat the default ones are used.
    """

    devices: tuple[str, ...]
    target: str = "host"
    precision: Precision = "fp32"
    scheduler: str = "hios-lp"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    schedule: Schedule | None = None
    costs: CostTable | None = None
    link: str = "pcie4"
    rpc: RpcAddress | None = None
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    merge_convolutions: bool = False
    dump_dir: Path | None = None
    database: Path | None = None

    def __post_init__(self) -> None:
        if self.merge_convolutions and (self.costs is not None or self.schedule is not None):
            raise UsageError(
                "merging convolutions takes costs of both networks, measured now: give neither "
                "costs nor a schedule"
            )


@dataclass(frozen=True)
class Compilation:
    """What was decided and made; `seconds` by phase, `trials` where schedules were tried out.

    `notes` says in sentences what an option brought.
    """

    graph: OperatorGraph
    costs: CostTable
    platform: Platform
    schedule: Schedule
    timeline: Timeline
    manifest: Manifest
    annotated: IRModule
    seconds: Mapping[str, float]
    tuned: TunedChoice
    trials: tuple[MeasuredSchedule, ...] = ()
    notes: tuple[str, ...] = ()


def build_artifact(
    network: Network,
    options: CompileOptions,
    *,
    info: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda phase, done, total: None,
) -> tuple[Compilation, Package]:
    """Schedule a lowered network and generate its code; the artifact is not in a file yet.

    `info` is added to the manifest's `compile_info`.

    Raises
    ------
    UsageError, CostError, ScheduleError, CompileError
        Where an option, the costs, the schedule or code generation is at fault.
    """
    seconds: dict[str, float] = {}
    with phase("measure", seconds, progress):
        costs, platform = measured_costs(network, options, progress)
        platform = platform.with_memory(options.memory)
    problem = _Problem(network, costs, platform, options)
    with phase("schedule", seconds, progress):
        schedule, trials = _schedule(problem, progress)
    timeline = evaluate(network.graph, costs, platform, schedule)
    with phase("generate code", seconds, progress):
        code = _device_code(network, schedule, options, progress)
        launches = {name: gpu for one in code.values() for name, gpu in one.launches.items()}
        annotated, partition = _partition(network, schedule, launches)
        manifest = _manifest(problem, partition, schedule, timeline)
        manifest = replace(manifest, gpu_kernels=launches)
        _check_memory(problem, schedule, manifest)
        tried = {"trials": [trial.to_data() for trial in trials]} if trials else {}
        manifest = replace(manifest, compile_info={**manifest.compile_info, **tried, **info})
        weights = _used(network.weights, manifest)
        libraries = {device: one.library for device, one in code.items()}
        binaries = {device: one.binary for device, one in code.items() if one.binary is not None}
        package = pack(manifest, libraries, weights, binaries)
    compilation = Compilation(
        network.graph,
        costs,
        platform,
        schedule,
        timeline,
        package.manifest,
        annotated,
        seconds,
        network.tuned,
        tuple(trials),
        (*network.tuned.notes, *_estimates(costs)),
    )
    return compilation, package


def _estimates(costs: CostTable) -> tuple[str, ...]:
    """Say which devices were scheduled with estimates."""
    return tuple(
        f"the costs of {model} are estimates, not measured"
        for model, times in costs.latency.items()
        if any(measurement.source == "estimated" for measurement in times.values())
    )


@dataclass(frozen=True)
class _Problem:
    """What there is to schedule, and how."""

    network: Network
    costs: CostTable
    platform: Platform
    options: CompileOptions


def _schedule(problem: _Problem, progress: Progress) -> tuple[Schedule, list[MeasuredSchedule]]:
    """Run the scheduler; where it is `auto` and the devices are here, try the best few out."""
    options, graph = problem.options, problem.network.graph
    if options.schedule is not None:
        return options.schedule, []
    arguments = (graph, problem.costs, problem.platform)
    measured_here = (
        options.costs is None and options.rpc is None and problem.network.lowered.keys() == {"cpu"}
    )
    if options.scheduler != "auto" or not measured_here:
        return make_schedule(options.scheduler, *arguments, **options.scheduler_options), []
    found = candidates(*arguments, options_of("auto", **options.scheduler_options))
    entrants = choose_entrants(found)
    if len(entrants) == 1:
        return evaluated(entrants[0], *arguments), []

    def write(schedule: Schedule, path: Path) -> None:
        _, partition = _partition(problem.network, schedule)
        code = _device_code(problem.network, schedule, options, progress)
        libraries = {device: one.library for device, one in code.items()}
        timeline = evaluate(*arguments, schedule)
        manifest = _manifest(problem, partition, schedule, timeline)
        write_artifact(path, manifest, libraries, _used(problem.network.weights, manifest))

    trials = run_contest(entrants, write, lambda done, total: progress("try out", done, total))
    best = min(range(len(trials)), key=lambda i: trials[i].latency.median_ms)
    return evaluated(entrants[best], *arguments), trials


def _check_memory(problem: _Problem, schedule: Schedule, manifest: Manifest) -> None:
    """Compare what is planned with each limit; schedulers could only estimate activations."""
    limit = {device.name: device.memory_bytes for device in problem.platform.devices}
    arena = {device.name: device.arena_bytes for device in manifest.devices}
    for device in schedule:
        most = limit[device.device]
        weights = problem.network.on(device.device).graph.weight_bytes(device.operators)
        if most is not None and weights + arena[device.device] > most:
            raise ScheduleError(
                f"device {device.device!r} has {most} bytes of memory, its operators need "
                f"{weights} for weights and {arena[device.device]} for activations"
            )


def _partition(
    network: Network,
    schedule: Schedule,
    gpu_kernels: Mapping[str, GpuKernel] = MappingProxyType({}),
) -> tuple[IRModule, Partition]:
    targets = {device.device: network.on(device.device).target for device in schedule}
    placed = network.placed(schedule.placement)
    annotated = apply_pass(AnnotateSchedule(schedule, targets), placed)
    return annotated, partition_by_device(annotated, gpu_kernels)


def _device_code(
    network: Network, schedule: Schedule, options: CompileOptions, progress: Progress
) -> dict[str, DeviceCode]:
    """Return the code of each device that has operators; of the first one where none has."""
    busy = [device for device in schedule if device.operators] or list(schedule)[:1]
    kernels: dict[str, dict[str, IRModule]] = {}
    for device in busy:
        module = network.kernels_on(device.device, device.operators)
        kernels.setdefault(kind_of(device.device), {})[device.device] = module
    code: dict[str, DeviceCode] = {}
    for kind, modules in kernels.items():
        code |= BACKENDS[kind].generate(
            modules,
            network.lowered[kind].target,
            cache_dir=kernel_dir(options.cache_dir),
            progress=lambda done, total: progress("generate code", done, total),
        )
    return code


def measured_costs(
    network: Network, options: CompileOptions, progress: Progress
) -> tuple[CostTable, Platform]:
    """Return the given costs, or measure them; and the platform that they belong to."""
    return network_costs(
        network,
        options.devices,
        given=options.costs,
        link=options.link,
        rpc=options.rpc,
        cache_dir=options.cache_dir,
        progress=progress,
    )


def _manifest(
    problem: _Problem, partition: Partition, schedule: Schedule, timeline: Timeline
) -> Manifest:
    network, costs, platform = problem.network, problem.costs, problem.platform
    main = network.kernels["main"]
    plan = plan_buffers(partition.programs, partition.buffers)
    buffer_of = {buffer.name: buffer for buffer in partition.buffers}

    def specs(attribute: str, buffers: Iterable[str]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(str(name), buffer, buffer_of[buffer].shape, buffer_of[buffer].dtype)
            for name, buffer in zip(main.attrs[attribute], buffers, strict=True)
        )

    return Manifest(
        tvm_version=tvm.__version__,
        model=network.graph.name,
        inputs=specs("input_names", network.graph.inputs),
        outputs=specs("output_names", partition.outputs),
        devices=tuple(
            DeviceSpec(
                name=device.name,
                kind=device_kind(device.name),
                library=None,
                target=str(network.on(device.name).target),
                cpu_features=backend_of(device.name).features(network.on(device.name).target),
                arena_bytes=plan.arena_bytes.get(device.name, 0),
            )
            for device in platform.devices
        ),
        programs=partition.programs,
        buffers=plan.buffers,
        schedule=json.loads(schedule.to_json()),
        predicted_makespan_ms=timeline.makespan_ms,
        prediction=predicted(schedule, timeline, costs, platform),
        compile_info={
            "hios_tvm": __version__,
            "target": problem.options.target,
            "tuned_kernels": sorted(network.tuned.traces),
            "machine": str(describe_machine()),
            "independence": platform.independence,
            "device_work_ms": _work_ms(schedule, costs, platform),
        },
    )


def _work_ms(schedule: Schedule, costs: CostTable, platform: Platform) -> dict[str, float]:
    """Predicted time of each device's stages, as if it ran alone."""
    model = {device.name: device.model for device in platform.devices}
    return {
        device.device: sum(
            costs.stage_ms(stage.groups, model[device.device]) for stage in device.stages
        )
        for device in schedule
    }


def _used(weights: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, np.ndarray]:
    used = {buffer.weight for buffer in manifest.buffers if buffer.space == "param"}
    return {name: weights[name] for name in weights if name in used}


@contextmanager
def phase(name: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    """Note in `seconds` how long the block takes, and report its beginning and end."""
    progress(name, 0, 1)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
    progress(name, 1, 1)
