"""A graph with costs and a platform, as a placement for many inputs sees them."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import permutations

from hios_tvm.schedulers.throughput import (
    ThroughputDevice,
    ThroughputOperator,
    ThroughputProblem,
)
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.platform import Device, Platform


def throughput_problem(
    graph: OperatorGraph, costs: CostTable, platform: Platform
) -> ThroughputProblem:
    """Return the problem of placing `graph` on the devices of `platform`.

    Of devices that share cores the smallest are used. An output takes the time of its dearest edge
    between any two devices, and counts for both. A weight counts for each operator that reads it.

    Raises
    ------
    CostError
        If an operator can run on no device.
    """
    costs.check(graph, platform)
    devices = _disjoint(platform)
    models = list(dict.fromkeys(device.model for device in devices))
    reserved = graph.activation_bytes
    index = {operator.name: v for v, operator in enumerate(graph.operators)}
    transfer_ms: defaultdict[str, float] = defaultdict(float)
    for edge in graph.edges:
        for one, other in permutations((device.name for device in devices), 2):
            ms = costs.transfer_ms(edge, platform, one, other)
            transfer_ms[edge.src] = max(transfer_ms[edge.src], ms)
    return ThroughputProblem(
        tuple(
            ThroughputOperator(
                operator.name,
                tuple(
                    costs.latency_ms(operator.name, model)
                    if costs.runs_on(operator.name, model)
                    else math.inf
                    for model in models
                ),
                transfer_ms[operator.name],
                graph.weight_bytes([operator.name]),
            )
            for operator in graph.operators
        ),
        tuple((index[edge.src], index[edge.dst]) for edge in graph.edges),
        tuple(
            ThroughputDevice(
                device.name,
                models.index(device.model),
                math.inf if device.memory_bytes is None else max(0, device.memory_bytes - reserved),
            )
            for device in devices
        ),
    )


def _disjoint(platform: Platform) -> list[Device]:
    """Return devices without common cores, the smallest first to be chosen, in their order."""
    used: set[int] = set()
    chosen = []
    for device in sorted(platform.devices, key=lambda device: len(device.cores)):
        if used.isdisjoint(device.cores):
            used.update(device.cores)
            chosen.append(device.name)
    return [device for device in platform.devices if device.name in chosen]
