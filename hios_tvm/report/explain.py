"""Why a schedule is as it is, and what holds a run back, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from hios_tvm.measuring.load import LOADED, load_note
from hios_tvm.report.rows import users_of
from hios_tvm.report.timeline import OperatorView
from hios_tvm.report.words import milliseconds, significant
from hios_tvm.schema.device_names import cores_of

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.schema.graph import Operator, OperatorGraph
    from hios_tvm.schema.manifest import Manifest

FAR_OFF = 0.15
"""A prediction that is off by more than this share is named."""

ONE_DEVICE = ("sequential", "greedy", "ios")
"""Schedulers that never use a second device."""

CRITERION = {
    "hios-lp": "puts each path of operators where the mapped part of the graph ends first",
    "hios-mr": "keeps the mapping with the smallest makespan that it finds",
    "heft": "puts each operator where it ends first",
    "optimal": "returns the schedule with the smallest makespan on independent devices",
    "refine": "keeps the schedule with the smallest predicted makespan that it finds",
    "auto": "keeps the schedule with the smallest predicted makespan that it finds",
}
"""How each other scheduler chooses devices."""


@dataclass(frozen=True)
class DeviceReport:
    """What one device got.

    `work_ms` is the sum of its stages, `share` its part of all work, times its cores. `transfers`
    are copies; `references` are tensors of other devices that it reads where they are.
    """

    device: str
    operators: int
    stages: int
    work_ms: float
    share: float
    weight_bytes: int
    arena_bytes: int
    transfers: int
    transfer_bytes: int
    references: int

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "device",
        "operators",
        "stages",
        "work ms",
        "share",
        "weights MiB",
        "arena MiB",
        "copies in",
        "MiB in",
    )

    def cells(self) -> list[str]:
        """One row of a table under `COLUMNS`."""
        return [
            self.device,
            str(self.operators),
            str(self.stages),
            significant(self.work_ms),
            f"{self.share:.0%}",
            significant(self.weight_bytes / 2**20),
            significant(self.arena_bytes / 2**20),
            str(self.transfers),
            significant(self.transfer_bytes / 2**20),
        ]


def manifest_reports(manifest: Manifest) -> list[DeviceReport]:
    """Read what each device got off an artifact's manifest."""
    from hios_tvm.schema.program import Call, Copy, reads_and_writes

    writer = {
        name: program.device
        for program in manifest.programs
        for instruction in program.instructions
        for name in reads_and_writes(instruction)[1]
    }
    work = manifest.prediction.work_ms
    core_ms = {name: ms * max(1, len(cores_of(name))) for name, ms in work.items()}
    total = sum(core_ms.values()) or 1.0
    stages = {device["name"]: device["stages"] for device in manifest.schedule.get("devices", ())}
    reports = []
    for device in manifest.devices:
        calls, copies, weights, references = 0, 0, set(), set()
        copied_bytes = 0
        for program in manifest.programs:
            if program.device != device.name:
                continue
            for instruction in program.instructions:
                if isinstance(instruction, Call):
                    reads = reads_and_writes(instruction)[0]
                    references |= {a for a in reads if writer.get(a, device.name) != device.name}
                    calls += 1
                    weights |= {a for a in instruction.args if manifest.buffer[a].space == "param"}
                elif isinstance(instruction, Copy):
                    copies += 1
                    copied_bytes += manifest.buffer[instruction.dst].nbytes
        reports.append(
            DeviceReport(
                device=device.name,
                operators=calls,
                stages=len(stages.get(device.name, ())),
                work_ms=work.get(device.name, 0.0),
                share=core_ms.get(device.name, 0.0) / total,
                weight_bytes=sum(manifest.buffer[name].nbytes for name in weights),
                arena_bytes=device.arena_bytes,
                transfers=copies,
                transfer_bytes=copied_bytes,
                references=len(references),
            )
        )
    return reports


def why_idle(
    manifest: Manifest,
    *,
    schedule_given: bool = False,
    memory: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """Say for the devices without operators what is known about why they have none.

    A device of whose cores another one uses some is not idle.

    Parameters
    ----------
    manifest : Manifest
    schedule_given : bool
        Whether the schedule was given to the compiler, so that no scheduler decided anything.
    memory : mapping of device to bytes
        The limits that the schedule had to keep.
    """
    reports = manifest_reports(manifest)
    busy = [report.device for report in reports if report.operators]
    busy_cores = {core for name in busy for core in cores_of(name)}
    unused = {
        report.device: set(cores_of(report.device))
        for report in reports
        if not report.operators and not busy_cores.intersection(cores_of(report.device))
    }
    idle = [
        name
        for name, cores in unused.items()
        if not any(cores < other for other in unused.values())
    ]
    limited = [] if schedule_given else [name for name in idle if name in memory]
    others = [name for name in idle if name not in limited]
    lines = [_limit_reason(manifest, name, memory[name], len(busy)) for name in limited]
    if others:
        reason = _reason(manifest, len(busy), schedule_given)
        lines.insert(0, f"{', '.join(others)} got nothing: {reason}")
    return lines


def _limit_reason(manifest: Manifest, device: str, limit: int, busy: int) -> str:
    """Say why a device whose memory is limited got nothing."""
    graph = manifest.graph
    if graph is not None and all(_bytes_of(graph, op) > limit for op in graph.operators):
        return f"{device} got nothing: no operator fits into its memory limit of {limit} bytes"
    reason = _reason(manifest, busy, schedule_given=False)
    return f"{device} got nothing: {reason}; its memory limit of {limit} bytes may be the cause"


def _bytes_of(graph: OperatorGraph, operator: Operator) -> int:
    """The memory that an operator takes alone: its weights, inputs and outputs."""
    tensors = {*operator.inputs, *operator.outputs} - set(graph.constants)
    return graph.weight_bytes([operator.name]) + sum(graph.tensor[t].nbytes for t in tensors)


def _reason(manifest: Manifest, busy: int, schedule_given: bool) -> str:
    scheduler, independence = manifest.schedule["scheduler"], manifest.prediction.independence
    count = 0 if manifest.graph is None else len(manifest.graph.operators)
    if schedule_given:
        return "the given schedule places no operator there"
    if scheduler in ONE_DEVICE:
        return f"the scheduler {scheduler!r} uses one device"
    if count <= busy:
        return f"the model has only {count} operator{'s'[: count > 1]}"
    if manifest.compile_info.get("trials"):
        return "the fastest of the schedules that were tried out does not use it"
    reason = f"the scheduler {scheduler!r} {CRITERION.get(scheduler, 'placed no operator there')}"
    # Only these two compare makespans of devices that slow each other down.
    if scheduler in ("refine", "auto") and independence < 1 - FAR_OFF:
        reason += f"; with all devices busy, each should run at {independence:.0%} of its own speed"
    return reason


def bottlenecks(result: BenchmarkResult, manifest: Manifest) -> list[str]:
    """Name what holds an artifact back, from runs of one thread."""
    if not result.busy_ms or result.sessions > 1:
        return []
    measured_ms = result.latency.median_ms
    predicted_ms = manifest.prediction.makespan_ms
    independence = manifest.prediction.independence
    busy_ms, copy_ms = result.busy_ms, result.copy_ms
    unit_ms = {
        unit: sum(busy_ms[name] for name in names) for unit, names in users_of(busy_ms).items()
    }
    lines = []
    for unit, busy in unit_ms.items():
        if busy == 0.0:
            lines.append(f"{unit} is idle: it has no operators")
        elif busy < 0.5 * measured_ms:
            reason = "" if result.others < LOADED else ", or waits for cores that others hold,"
            lines.append(f"{unit} is idle{reason} {1 - busy / measured_ms:.0%} of the time")
    for device, busy in busy_ms.items():
        if busy and copy_ms[device] > 0.2 * busy:
            share = copy_ms[device] / busy
            lines.append(f"{device} is bound by transfers: {share:.0%} of its work")
    active = sum(busy > 0 for busy in busy_ms.values())
    if active > 1 and independence < 1 - FAR_OFF:
        lines.append(
            f"devices are not independent: with all busy, each runs at {independence:.0%} of its "
            "own speed"
        )
    if predicted_ms is not None:
        off = measured_ms / predicted_ms - 1.0
        if abs(off) > FAR_OFF:
            lines.append(
                f"the prediction is off: measured {milliseconds(measured_ms)}, predicted "
                f"{milliseconds(predicted_ms)} ({off:+.0%}); {_why_off(result, manifest)}"
            )
    notes = load_note(result.others, "the runs")
    busiest = max(unit_ms, key=unit_ms.__getitem__)
    if not lines and unit_ms[busiest]:
        share = min(1.0, unit_ms[busiest] / measured_ms)  # of medians of different runs
        what = "core" if busiest not in busy_ms else "device"
        lines.append(f"bound by kernels: the busiest {what} works {share:.0%} of the time")
    return lines + notes


def _why_off(result: BenchmarkResult, manifest: Manifest) -> str:
    from hios_tvm.runtime.machine import describe_machine

    if result.others >= LOADED:
        return "the machine was busy"
    if manifest.compile_info.get("machine") != str(describe_machine()):
        return "it was compiled on another machine: compile it again on this one"
    return "it was compiled on this machine, whose load or clock may have been another then"


@dataclass(frozen=True)
class OperatorDifference:
    """An operator, its cost when the schedule was made, and what it took in runs."""

    operator: str
    device: str
    cost_ms: float
    measured_ms: float

    @property
    def difference_ms(self) -> float:
        return self.measured_ms - self.cost_ms

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "operator",
        "device",
        "cost ms",
        "measured ms",
        "difference ms",
    )

    def cells(self) -> list[str]:
        """One row of a table under `COLUMNS`."""
        times = map(significant, (self.cost_ms, self.measured_ms, self.difference_ms))
        return [self.operator, self.device, *times]


def cost_differences(
    manifest: Manifest, operator_ms: Mapping[str, float]
) -> list[OperatorDifference]:
    """Return the operators that were measured and have a cost, largest difference first."""
    stream = OperatorView(manifest).stream
    found = [
        OperatorDifference(
            item.operator, stream[item.operator][0], item.cost_ms, operator_ms[item.operator]
        )
        for item in manifest.prediction.operators
        if item.operator in operator_ms and item.operator in stream
    ]
    return sorted(found, key=lambda item: -abs(item.difference_ms))
