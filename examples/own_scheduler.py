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
    CompileOptions,
    CostTable,
    OperatorGraph,
    Platform,
    Schedule,
    compile_model,
    make_schedule,
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

    cores = sorted(os.sched_getaffinity(0))[:2]
    options = CompileOptions(
        devices=tuple(f"cpu@{core}" for core in cores),
        scheduler="round-robin",
        scheduler_options={"run": 4},
    )
    module = from_onnx(zoo.build("squeezenet1_1", height=64, width=64))
    with tempfile.TemporaryDirectory() as folder:
        result = compile_model(module, Path(folder, "model.hios"), options)

    # The costs that were measured for it are plain data: other schedulers can use them.
    problem = result.graph, result.costs, result.platform
    print(f"round-robin: {result.schedule.makespan_ms:.2f} ms predicted")
    print(f"hios-lp: {make_schedule('hios-lp', *problem).makespan_ms:.2f} ms predicted")


if __name__ == "__main__":
    main()
