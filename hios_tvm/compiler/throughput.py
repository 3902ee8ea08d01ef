"""A compile for the most results per second: one session with all cores, or replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.compiler.options import CompileOptions
from hios_tvm.measuring.contest import run_throughput_contest, winner
from hios_tvm.schedulers.bounds import least_work_ms
from hios_tvm.schema.device_names import cores_of, cpu_device_name
from hios_tvm.schema.platform import Platform

if TYPE_CHECKING:
    from hios_tvm.compiler.pipeline import Planned


def plan_throughput(
    plan_one: Callable[[CompileOptions], Planned], options: CompileOptions, progress: PhaseProgress
) -> Planned:
    """Plan the network for each equal division of the cores, and keep what is fastest.

    Sessions on parts of the cores run different inputs, each as fast as the part allows. What one
    session loses by dividing operators among cores they gain, but for what they take of each
    other's caches and memory bandwidth. A pipeline over the same cores would do the same work and
    hand tensors over besides, so it is not tried.

    Parameters
    ----------
    plan_one : function
        Plans for options with one device.
    options : CompileOptions
        Where costs are measured on this machine, the divisions run in turn; else the
        prediction decides.
    progress : function
    """
    divisions = core_divisions(options.devices)
    plans = []
    for parts in divisions:
        first = replace(options, devices=parts[:1], objective="latency")
        planned = plan_one(first)
        manifest = replace(planned.build.manifest, replicas=tuple((part,) for part in parts[1:]))
        plans.append(replace(planned, build=replace(planned.build, manifest=manifest)))
    cores = len(divisions[-1])
    platform = _platform(plans[0])
    predicted_ms = [
        (plan.schedules[plan.best].makespan_ms or 0.0)
        * platform.slowdown(cores - cores // len(parts))
        / len(parts)
        for plan, parts in zip(plans, divisions, strict=True)
    ]
    notes = []
    if len(plans) == 1:
        best = 0
    elif options.costs is None and options.rpc is None:
        trials = run_throughput_contest(
            [plan.build for plan in plans], predicted_ms, partial(progress, "try out")
        )
        best = winner(trials)
        notes = [f"tried out: {trial} from one result to the next" for trial in trials]
    else:
        best = min(range(len(plans)), key=predicted_ms.__getitem__)
    bound_ms = _bound_ms(plans[best], cores)
    notes.append(
        f"sessions of run_many: {len(divisions[best])}, on {', '.join(divisions[best])}; predicted "
        f"{predicted_ms[best]:.3f} ms from one result to the next, lower bound {bound_ms:.3f} ms"
    )
    kept = plans[best]
    info = {"interval_ms": predicted_ms[best], "lower_bound_ms": bound_ms}
    manifest = kept.build.manifest
    manifest = replace(manifest, compile_info={**manifest.compile_info, "throughput": info})
    build = replace(kept.build, manifest=manifest)
    return replace(kept, build=build, notes=(*kept.notes, *notes))


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


def _bound_ms(plan: Planned, cores: int) -> float:
    """Return a time from one result to the next that no schedule on so many cores beats.

    Each operator takes some time of some cores, at least the least of all sizes of devices.
    """
    assert plan.measured is not None
    costs, platform = plan.measured
    names = (operator.name for operator in plan.network.graph.operators)
    return sum(least_work_ms(costs, platform, name) for name in names) / cores


def _platform(plan: Planned) -> Platform:
    assert plan.measured is not None  # a schedule is never given
    return plan.measured[1]
