"""Scheduling problems for tests: drawn by Hypothesis, or small and by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.device_names import cpu_divisions, cpu_model_name, parse_cores
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.platform import Device, Link, Platform

Edges = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Case:
    graph: OperatorGraph
    costs: CostTable
    platform: Platform


def make_case(
    latency_ms: Mapping[str, float],
    edges: Edges,
    *,
    transfer_ms: float | Mapping[tuple[str, str], float] = 0.0,
    platform: Platform | None = None,
    utilization: Mapping[str, float] | None = None,
) -> Case:
    """Operators in the order of `latency_ms`, which must be topological."""
    graph = OperatorGraph(
        "case",
        tuple(
            Operator(name, "kernel", tuple(src for src, dst in edges if dst == name), (name,))
            for name in latency_ms
        ),
        tuple(Tensor(name, (1,), "float32") for name in latency_ms),
        outputs=tuple(latency_ms),
    )
    times = transfer_ms if isinstance(transfer_ms, Mapping) else dict.fromkeys(edges, transfer_ms)
    platform = platform or Platform.uniform(2)
    latency = {name: Measurement(ms) for name, ms in latency_ms.items()}
    costs = CostTable(
        {device.model: latency for device in platform.devices},
        transfer={edge: Measurement(ms) for edge, ms in times.items()},
        utilization={device.model: utilization or {} for device in platform.devices},
    )
    return Case(graph, costs, platform)


@st.composite
def devices(draw: st.DrawFn, max_devices: int = 4) -> tuple[Device, ...]:
    """Devices without cores, or with any cores: disjoint, nested, equal, or some in common."""
    count = draw(st.integers(1, max_devices))
    streams = [draw(st.integers(1, 3)) for _ in range(count)]
    cores: list[tuple[int, ...]] = [()] * count
    if draw(st.booleans()):
        some = st.lists(st.integers(0, 3), unique=True, max_size=4).map(tuple)
        cores = [draw(some) for _ in range(count)]
    return tuple(
        Device(f"device{d}", "device" if len(own) < 2 else f"device/{len(own)}", each, cores=own)
        for d, (each, own) in enumerate(zip(streams, cores, strict=True))
    )


@st.composite
def cases(draw: st.DrawFn, max_operators: int = 12, max_devices: int = 4) -> Case:
    """Any DAG: chains, several sources, operators without edges, equal and zero times."""
    count = draw(st.integers(1, max_operators))
    names = [f"v{i}" for i in range(count)]
    if draw(st.booleans()):
        names.reverse()  # so that nothing depends on the order of names
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=2 * count)) if pairs else []
    times = st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 4.0))
    platform = Platform(
        draw(devices(max_devices)),
        default_link=Link(0.0, 1.0),
        independence=draw(st.sampled_from([1.0, 0.8, 0.5])),
    )
    case = make_case(
        {name: draw(times) for name in names},
        edges,
        transfer_ms={edge: draw(times) for edge in edges},
        platform=platform,
        utilization={name: draw(st.floats(0.3, 1.0)) for name in names},
    )
    gain = draw(st.floats(-0.1, 1.0))  # of each further core
    width = {device.model: device.width for device in platform.devices}
    latency = {
        model: {
            name: Measurement(time.ms / (1.0 + gain * (width[model] - 1)))
            for name, time in times.items()
        }
        for model, times in case.costs.latency.items()
    }
    return replace(case, costs=replace(case.costs, latency=latency))


def divided(name: str, *, independence: float = 1.0) -> Platform:
    return Platform(
        tuple(
            Device(part, cpu_model_name(part), streams=1, cores=parse_cores(part), memory="ram")
            for part in cpu_divisions(name)
        ),
        independence=independence,
    )


def moldable(case: Case, platform: Platform, ms_by_model: dict[str, dict[str, float]]) -> Case:
    """Return the case on `platform`, with the times of each device model."""
    latency = {
        model: {name: Measurement(ms) for name, ms in times.items()}
        for model, times in ms_by_model.items()
    }
    return Case(case.graph, replace(case.costs, latency=latency, utilization={}), platform)
