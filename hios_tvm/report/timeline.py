"""The operators of an artifact, and when they run: as predicted, and as measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hios_tvm.measuring.benchmark import BenchmarkResult
from hios_tvm.runtime.trace import RunTrace
from hios_tvm.schema.graph import Edge
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import Call, Copy

Row = tuple[str, int]
"""A device and one of its streams."""


@dataclass(frozen=True)
class Node:
    """An operator under the `number` that figures and tables give it."""

    number: int
    name: str
    row: Row


@dataclass(frozen=True)
class Bar:
    """An operator (`node`) or a copy (None) in time, milliseconds from the start of the run."""

    row: Row
    node: Node | None
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Transfer:
    """Data on its way between devices: from the end of its producer to the end of its copy."""

    src: Row
    dst: Row
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Timeline:
    """Everything that happens in one run, predicted or measured."""

    bars: tuple[Bar, ...]
    transfers: tuple[Transfer, ...]
    makespan_ms: float


class OperatorView:
    """The operators of an artifact as its programs hold them, and the data between them.

    `nodes` has them by name, numbered in the order of their predicted starts; `in_order` names them
    in the topological order of the graph.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        rows = {
            step.operator: (program.device, program.stream)
            for program in manifest.programs
            for step in program.instructions
            if isinstance(step, Call) and program.device in manifest.device
        }
        graph = () if manifest.graph is None else manifest.graph.operators
        self.in_order = tuple(dict.fromkeys([o.name for o in graph if o.name in rows] + list(rows)))
        predicted = [item.operator for item in manifest.prediction.operators]
        names = dict.fromkeys([*(name for name in predicted if name in rows), *self.in_order])
        self.nodes = {name: Node(i + 1, name, rows[name]) for i, name in enumerate(names)}
        self.rows: tuple[Row, ...] = tuple(
            (device.name, program.stream)
            for device in manifest.devices
            for program in sorted(manifest.programs, key=lambda program: program.stream)
            if program.device == device.name
        )

    @cached_property
    def producer(self) -> Mapping[str, str]:
        """The operator whose output each buffer holds, on its device or as a copy."""
        steps = [step for program in self.manifest.programs for step in program.instructions]
        producer: dict[str, str] = {}
        for step in steps:
            if isinstance(step, Call):
                producer |= dict.fromkeys(step.args[len(step.args) - step.outputs :], step.operator)
        source = {step.dst: step.src for step in steps if isinstance(step, Copy)}
        for copy, buffer in source.items():
            for _ in source:  # a copy of a copy ..., which ends in a verified artifact
                buffer = source.get(buffer, buffer)
            if buffer in producer:
                producer[copy] = producer[buffer]
        return producer

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Data edges between operators; none where the artifact does not hold its graph."""
        edges = () if self.manifest.graph is None else self.manifest.graph.edges
        return tuple(edge for edge in edges if edge.src in self.nodes and edge.dst in self.nodes)


def predicted_timeline(view: OperatorView) -> Timeline | None:
    """Return what the compiler expects; None where the artifact does not say.

    The operators of a stream group share the time of their stage as their costs do.
    """
    prediction = view.manifest.prediction
    items = [item for item in prediction.operators if item.operator in view.nodes]
    if not items:
        return None
    stages: dict[tuple[Row, float, float], list[tuple[Node, float]]] = {}
    for item in items:
        node = view.nodes[item.operator]
        key = node.row, item.start_ms, item.end_ms
        stages.setdefault(key, []).append((node, item.cost_ms))
    bars = []
    for (row, start_ms, end_ms), members in stages.items():
        total, duration_ms = sum(cost for _, cost in members), end_ms - start_ms
        for node, cost in members:
            share = cost / total if total else 1 / len(members)
            stop_ms = start_ms + share * duration_ms
            bars.append(Bar(row, node, start_ms, stop_ms))
            start_ms = stop_ms
    transfers = tuple(
        Transfer(view.nodes[t.src].row, view.nodes[t.dst].row, t.start_ms, t.end_ms)
        for t in prediction.transfers
        if t.src in view.nodes and t.dst in view.nodes
    )
    makespan_ms = view.manifest.prediction.makespan_ms
    return Timeline(tuple(bars), transfers, makespan_ms or max(item.end_ms for item in items))


def measured_timeline(view: OperatorView, trace: RunTrace) -> Timeline:
    """Return what happened in one run."""

    def ms(moment_ns: int) -> float:
        return (moment_ns - trace.start_ns) / 1e6

    end_ns = {span.name: span.end_ns for span in trace.spans if span.kind == "call"}
    bars, transfers = [], []
    for span in trace.spans:
        row = span.device, span.stream
        if span.kind == "call":
            bars.append(Bar(row, view.nodes[span.name], ms(span.start_ns), ms(span.end_ns)))
        elif span.kind == "copy":
            bars.append(Bar(row, None, ms(span.start_ns), ms(span.end_ns)))
            producer = view.producer.get(span.name)
            if producer is not None and producer in end_ns:
                source = view.nodes[producer].row
                transfers.append(Transfer(source, row, ms(end_ns[producer]), ms(span.end_ns)))
    return Timeline(tuple(bars), tuple(transfers), ms(trace.end_ns))


def timelines(view: OperatorView, result: BenchmarkResult | None) -> dict[str, Timeline]:
    """Return what is known of predicted and measured, each under its title."""
    found = {}
    predicted = predicted_timeline(view)
    if predicted is not None:
        found[f"predicted: {predicted.makespan_ms:.2f} ms"] = predicted
    if result is not None and result.traces:
        measured = measured_timeline(view, median_run(result.traces))
        title = f"measured: {measured.makespan_ms:.2f} ms, the median of {len(result.traces)} runs"
        found[title] = measured
    return found


def median_run(traces: Sequence[RunTrace]) -> RunTrace:
    """Return the run of median duration."""
    ordered = sorted(traces, key=lambda trace: trace.end_ns - trace.start_ns)
    return ordered[len(ordered) // 2]


def short_label(operator: str) -> str:
    """Return the end of an operator's name, which tells more than its beginning.

    >>> short_label("relu1"), short_label("features_3_squeeze_1x1_conv")
    ('relu1', '…es_3_squeeze_1x1_conv')
    """
    return operator if len(operator) <= 22 else f"…{operator[-21:]}"
