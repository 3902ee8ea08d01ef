"""Kernels for a machine without a compiler: it measures them, this one schedules.

`hios_tvm.runtime.profile` is the other half.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tvm.ir import IRModule

from hios_tvm.compiler import CompileOptions, compile_network
from hios_tvm.costs.table import CostTable, Measurement
from hios_tvm.devices import Platform
from hios_tvm.measure.platform import cpu_platform
from hios_tvm.network import lower_network
from hios_tvm.passes.canonicalize_operators import NUM_INPUT
from hios_tvm.runtime.profile import GRAPH, WEIGHTS
from hios_tvm.schedule import DeviceSchedule, Schedule, Stage

__all__ = ["export_kernels"]

_DEVICE = "cpu@0"  # the kernels run on any


def export_kernels(
    mod: IRModule,
    output: Path,
    *,
    target: str = "host",
    name: str = "model",
    cache_dir: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> None:
    """Write the kernels of a frontend's module as an artifact without weights.

    It is an artifact like any other, and checked like any other: weights are inputs, each operator
    is called once, and the operator graph travels along.

    Parameters
    ----------
    target : str
        CPU of the machine that will measure, and of the compile that will use the costs.
    cache_dir : Path, optional
        Folder of compiled kernels.

    Raises
    ------
    UsageError, CompileError
        As `compile_model`.
    """
    network = lower_network(mod, target, name=name)
    graph, main = network.graph, network.mod["main"]
    names = [*(str(given) for given in main.attrs["input_names"]), *graph.constants]
    open_main = main.with_attrs({NUM_INPUT: len(main.params), "input_names": names})
    functions = {gvar: f for gvar, f in network.mod.functions.items() if f != main}
    opened = IRModule({**functions, network.mod.get_global_var("main"): open_main})
    stages = tuple(Stage(((operator.name,),)) for operator in graph.operators)
    platform = cpu_platform((_DEVICE,), network.target, measured=Platform.uniform(1))
    times = {operator.name: Measurement(1.0) for operator in graph.operators}
    options = CompileOptions(
        devices=(_DEVICE,),
        target=target,
        schedule=Schedule("sequential", (DeviceSchedule(_DEVICE, stages),)),
        costs=CostTable({device.model: times for device in platform.devices}, platform=platform),
        cache_dir=cache_dir,
    )
    compile_network(
        replace(
            network,
            mod=opened,
            graph=replace(graph, inputs=graph.inputs + graph.constants, constants=()),
            weights={},
        ),
        output,
        options,
        info={
            GRAPH: json.loads(graph.to_json()),
            WEIGHTS: list(graph.constants),
            "command": f"hios-tvm profile export {name}",
        },
        progress=progress,
    )
