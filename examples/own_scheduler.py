"""Write a scheduler, compare it with HIOS-LP, and compile a network with it.

    python examples/own_scheduler.py

A scheduler is a function of plain data: it takes an operator graph, its costs and a platform, and
returns stages for each device. This one deals the operators out in topological order, one device
after another, whatever they cost.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hios_tvm import (
    CostTable,
    OperatorGraph,
    Platform,
    Schedule,
    build,
    lower_network,
    network_costs,
    plan,
    predict,
    write,
    zoo,
)
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.schedulers import SCHEDULERS
from hios_tvm.schedulers.registry import Entry
from hios_tvm.schema.schedule import DeviceSchedule, Stage


@dataclass(frozen=True, kw_only=True)
class RoundRobinOptions:
    """Options of `round_robin`."""

    run: int = 1
    """Operators that a device gets at a time."""


def round_robin(
    graph: OperatorGraph, costs: CostTable, platform: Platform, options: RoundRobinOptions
) -> Schedule:
    """Deal the operators out in topological order: each is a stage of its own.

    In every device's list the operators keep their topological order, so no two devices can wait
    for each other.
    """
    stages: list[list[Stage]] = [[] for _ in platform.devices]
    for number, operator in enumerate(graph.operators):
        device = number // options.run % len(platform.devices)
        stages[device].append(Stage(groups=((operator.name,),)))
    return Schedule(
        "round-robin",
        tuple(
            DeviceSchedule(device.name, tuple(placed))
            for device, placed in zip(platform.devices, stages, strict=True)
        ),
    )


def main() -> None:
    SCHEDULERS["round-robin"] = Entry(round_robin, RoundRobinOptions)

    network = lower_network(from_onnx(zoo.build("squeezenet1_1", height=64, width=64)), "host")
    devices = [f"cpu@{core}" for core in sorted(os.sched_getaffinity(0))[:2]]
    costs, platform = network_costs(network, devices)  # measured once, for all schedulers
    schedule = plan(network, costs, platform, "round-robin", run=4)
    print(f"round-robin: {schedule.makespan_ms:.2f} ms predicted")
    print(f"hios-lp: {plan(network, costs, platform).makespan_ms:.2f} ms predicted")
    with tempfile.TemporaryDirectory() as folder:
        prediction = predict(network.graph, costs, platform, schedule)
        manifest = write(build(network, schedule), Path(folder, "model.hios"), prediction)
    print(f"an artifact with {len(manifest.programs)} programs")


if __name__ == "__main__":
    main()
