"""All operators on one device, one after another: the baseline of everything."""

from __future__ import annotations

from dataclasses import dataclass

from hios_tvm.costs.table import CostTable
from hios_tvm.devices import Platform
from hios_tvm.errors import InfeasibleError
from hios_tvm.graph import OperatorGraph
from hios_tvm.schedule import DeviceSchedule, Schedule, Stage

__all__ = ["SequentialOptions", "sequential"]


@dataclass(frozen=True, kw_only=True)
class SequentialOptions:
    """There is nothing to choose."""


def sequential(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: SequentialOptions
) -> Schedule:
    """Run the operators in topological order on the device that takes the least time for all.

    Raises
    ------
    InfeasibleError
        If no device can run every operator.
    """
    total_ms = {
        device.name: sum(costs.latency_ms(op.name, device.model) for op in graph.operators)
        for device in platform.devices
        if all(costs.runs_on(op.name, device.model) for op in graph.operators)
    }
    if not total_ms:
        raise InfeasibleError(
            "no device can run every operator; use a scheduler that places operators, such as "
            "hios-lp"
        )
    chosen = min(total_ms, key=total_ms.__getitem__)
    stages = tuple(Stage(((op.name,),)) for op in graph.operators)
    return Schedule(
        "sequential",
        tuple(
            DeviceSchedule(device.name, stages if device.name == chosen else ())
            for device in platform.devices
        ),
    )
