"""A compile for the most results per second: one session with all cores, replicas, pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.backends.network import Network
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.measuring.contest import run_throughput_contest, winner
from hios_tvm.schedulers import evaluated
from hios_tvm.schedulers.bounds import least_work_ms
from hios_tvm.schedulers.throughput_stages import (
    contiguous_pipeline,
    pipeline_interval_ms,
    pipeline_schedule,
)
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.device_names import cores_of, cpu_device_name, cpu_model_name
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.schedule import Schedule

if TYPE_CHECKING:
    from hios_tvm.compiler.pipeline import Planned

MakeSchedule: TypeAlias = Callable[[Network, CostTable, Platform], Schedule]
"""From a network with its costs to the one schedule that is wanted."""

PlanOne: TypeAlias = "Callable[[CompileOptions, MakeSchedule | None], Planned]"
"""Plans for options; without a way to make the schedule, the options choose it."""


@dataclass(frozen=True)
class Entrant:
    """A way to use all cores.

    Attributes
    ----------
    sessions : tuple of tuple of str
        The devices of each session, all of one size. Several are a pipeline.
    planned : Planned
        The first session's schedule and code.
    predicted_ms : float
        From one result to the next.
    """

    sessions: tuple[tuple[str, ...], ...]
    planned: Planned
    predicted_ms: float

    @property
    def words(self) -> str:
        """What a message says of it."""
        devices = ", ".join(" and ".join(names) for names in self.sessions)
        what = "pipelines" if len(self.sessions[0]) > 1 else "sessions"
        return f"{what} of run_many: {len(self.sessions)}, on {devices}"


def plan_throughput(plan_one: PlanOne, options: CompileOptions, progress: PhaseProgress) -> Planned:
    """Plan the network for each equal division of the cores, and keep what is fastest.

    Sessions on parts of the cores run different inputs, each as fast as the part allows. What one
    session loses by dividing operators among cores they gain, but for what they take of each
    other's caches and memory bandwidth. A pipeline over the same cores does the same work and
    hands tensors over besides, but each core reads its own part of the weights only. Costs do not
    show that, so the best pipeline by prediction is tried out, too.

    Parameters
    ----------
    plan_one : function
        Plans for options with one device, or with those of a pipeline.
    options : CompileOptions
        Where costs are measured on this machine, the divisions run in turn; else the
        prediction decides.
    progress : function
    """
    entrants = plan_entrants(plan_one, options)
    predicted_ms = [entrant.predicted_ms for entrant in entrants]
    notes = []
    if len(entrants) == 1:
        best = 0
    elif options.costs is None and options.rpc is None:
        trials = run_throughput_contest(
            [entrant.planned.build for entrant in entrants],
            predicted_ms,
            partial(progress, "try out"),
        )
        best = winner(trials)
        notes = [f"tried out: {trial} from one result to the next" for trial in trials]
    else:
        best = min(range(len(entrants)), key=predicted_ms.__getitem__)
    kept = entrants[best]
    bound_ms = _bound_ms(entrants)
    notes.append(
        f"{kept.words}; predicted {kept.predicted_ms:.3f} ms from one result to the next, lower "
        f"bound {bound_ms:.3f} ms"
    )
    info = {"interval_ms": kept.predicted_ms, "lower_bound_ms": bound_ms}
    manifest = kept.planned.build.manifest
    manifest = replace(manifest, compile_info={**manifest.compile_info, "throughput": info})
    build = replace(kept.planned.build, manifest=manifest)
    return replace(kept.planned, build=build, notes=(*kept.planned.notes, *notes))


def plan_entrants(plan_one: PlanOne, options: CompileOptions) -> list[Entrant]:
    """Return one session with all cores, sessions on parts of them, and the best pipeline."""
    entrants = _sessions(plan_one, options)
    pipeline = _best_pipeline(plan_one, options, entrants)
    return entrants if pipeline is None else [*entrants, pipeline]


def _sessions(plan_one: PlanOne, options: CompileOptions) -> list[Entrant]:
    """Return sessions of one device each, for all divisions of the cores."""
    entrants: list[Entrant] = []
    for parts in core_divisions(options.devices):
        planned = plan_one(replace(options, devices=parts[:1], objective="latency"), None)
        makespan_ms = planned.schedules[planned.best].makespan_ms or 0.0
        sessions = tuple((part,) for part in parts)
        first = entrants[0].planned if entrants else planned
        interval_ms = makespan_ms * _slowdown(first, parts) / len(parts)
        entrants.append(_entrant(planned, sessions, interval_ms))
    return entrants


def _best_pipeline(
    plan_one: PlanOne, options: CompileOptions, of_one_device: Sequence[Entrant]
) -> Entrant | None:
    """Return the pipelines with the least predicted interval; None where devices would be idle."""
    found: list[tuple[float, tuple[tuple[str, ...], ...]]] = []
    for entrant in of_one_device:
        parts = tuple(part for (part,) in entrant.sessions)
        costs, _ = _measured(entrant.planned)
        for length in range(2, len(parts) + 1):
            if len(parts) % length:
                continue
            devices = tuple(Device(part, cpu_model_name(part), 1) for part in parts[:length])
            graph = entrant.planned.network.graph
            pipeline = contiguous_pipeline(graph, costs, Platform(devices))
            if len(set(pipeline.device_of)) == length:
                sessions = tuple(parts[i : i + length] for i in range(0, len(parts), length))
                found.append((pipeline.interval_ms / len(sessions), sessions))
    if not found:
        return None
    _, sessions = min(found, key=lambda entry: entry[0])
    stages = replace(options, devices=sessions[0], divide=False, objective="latency")
    planned = plan_one(stages, _stages)
    schedule = planned.schedules[planned.best]
    if not all(device.stages for device in schedule):
        return None  # as measured, to hand tensors over takes longer than what it saves
    interval_ms = pipeline_interval_ms(planned.network.graph, *_measured(planned), schedule)
    parts = tuple(part for session in sessions for part in session)
    slowdown = _slowdown(of_one_device[0].planned, parts)
    return _entrant(planned, sessions, interval_ms * slowdown / len(sessions))


def _stages(network: Network, costs: CostTable, platform: Platform) -> Schedule:
    pipeline = contiguous_pipeline(network.graph, costs, platform)
    schedule = pipeline_schedule(network.graph, pipeline, platform)
    return evaluated(schedule, network.graph, costs, platform)


def _entrant(
    planned: Planned, sessions: tuple[tuple[str, ...], ...], interval_ms: float
) -> Entrant:
    length = len(sessions[0])
    manifest = replace(
        planned.build.manifest,
        replicas=sessions[1:],
        in_flight=1 if length == 1 else length + 1,  # one waits, so that no device has to
    )
    planned = replace(planned, build=replace(planned.build, manifest=manifest))
    return Entrant(sessions, planned, interval_ms)


def _slowdown(of_all: Planned, parts: Sequence[str]) -> float:
    """Return how much longer a part takes while all others are busy."""
    cores = sum(len(cores_of(part)) for part in parts)
    return _measured(of_all)[1].slowdown(cores - cores // len(parts))


def core_divisions(devices: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the equal divisions of all cores: into one part, two, and so on to single cores.

    >>> core_divisions(("cpu@0-1", "cpu@2-3"))
    [('cpu@0-3',), ('cpu@0-1', 'cpu@2-3'), ('cpu@0', 'cpu@1', 'cpu@2', 'cpu@3')]
    """
    cores = sorted({core for name in devices for core in cores_of(name)})
    return [
        tuple(cpu_device_name(cores[i : i + size]) for i in range(0, len(cores), size))
        for size in range(len(cores), 0, -1)
        if len(cores) % size == 0
    ]


def _bound_ms(entrants: Sequence[Entrant]) -> float:
    """Return a time from one result to the next that no schedule on all cores beats.

    Each operator takes some time of some cores, at least the least of all sizes of devices. The
    first of `entrants` has all cores.
    """
    first = entrants[0].planned
    costs = [_measured(entrant.planned) for entrant in entrants]
    work_ms = sum(
        min(least_work_ms(table, platform, operator.name) for table, platform in costs)
        for operator in first.network.graph.operators
    )
    return work_ms / len(cores_of(entrants[0].sessions[0][0]))


def _measured(plan: Planned) -> tuple[CostTable, Platform]:
    assert plan.measured is not None  # a schedule is never given
    return plan.measured
