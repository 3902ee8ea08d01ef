"""The operators of an artifact, and when they run: as predicted, and as measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from hios_tvm.errors import ScheduleError
from hios_tvm.measuring.contest import trials_of
from hios_tvm.report.operator_types import operator_type
from hios_tvm.report.rows import Stream
from hios_tvm.report.words import milliseconds
from hios_tvm.schema.graph import Edge, OperatorGraph
from hios_tvm.schema.manifest import Manifest, Prediction
from hios_tvm.schema.program import Call, Copy
from hios_tvm.schema.schedule import Schedule

if TYPE_CHECKING:
    from hios_tvm.measuring.benchmark import BenchmarkResult
    from hios_tvm.runtime.trace import RunTrace


@dataclass(frozen=True)
class Node:
    """An operator under the `number` that figures and tables give it.

    `facts` are sentences for who wants to know more: its kernel, nodes, and outputs.
    """

    number: int
    name: str
    kernel: str = ""
    facts: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """One of `OPERATOR_TYPES`."""
        return operator_type(self.kernel)


@dataclass(frozen=True)
class Bar:
    """An operator (`node`) or a copy (None) in time, milliseconds from the start of the run."""

    stream: Stream
    node: Node | None
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Transfer:
    """Data on its way between devices: from the end of its producer to the end of its copy."""

    src: Stream
    dst: Stream
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

    `nodes` has them by name, numbered as `numbers` says, which may be those of another artifact,
    and from there on in the order of their predicted starts. `stream` has that of each; `in_order`
    names them in the topological order of the graph.
    """

    def __init__(
        self, manifest: Manifest, numbers: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.manifest = manifest
        kernels: dict[str, str] = {}
        self.stream: dict[str, Stream] = {}
        for program in manifest.programs:
            for step in program.instructions:
                if isinstance(step, Call) and program.device in manifest.device:
                    kernels[step.operator] = step.kernel
                    self.stream[step.operator] = program.device, program.stream
        graph = () if manifest.graph is None else manifest.graph.operators
        placed = [o.name for o in graph if o.name in self.stream]
        self.in_order = tuple(dict.fromkeys([*placed, *self.stream]))
        predicted = [item.operator for item in manifest.prediction.operators]
        names = dict.fromkeys(
            [*(name for name in predicted if name in self.stream), *self.in_order]
        )
        self.nodes = number_nodes(names, kernels, manifest.graph, numbers)
        self.streams: tuple[Stream, ...] = tuple(
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


def number_nodes(
    names: Iterable[str],
    kernels: Mapping[str, str],
    graph: OperatorGraph | None,
    numbers: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Node]:
    """Return the operators by name, numbered as `numbers` says, then on in the given order."""
    nodes = {}
    new = itertools.count(1 + max(numbers.values(), default=0))
    for name in names:
        number = numbers[name] if name in numbers else next(new)
        facts = [f"kernel {kernels[name]}"]
        operator = None if graph is None else graph.operator.get(name)
        if graph is not None and operator is not None:
            if operator.nodes:
                facts.append(f"nodes {', '.join(operator.nodes)}")
            facts += [f"output {_tensor(graph, tensor)}" for tensor in operator.outputs]
        nodes[name] = Node(number, name, kernels[name], tuple(facts))
    return nodes


def _tensor(graph: OperatorGraph, name: str) -> str:
    tensor = graph.tensor[name]
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'} {tensor.dtype}"


def predicted_timeline(view: OperatorView) -> Timeline | None:
    """Return what the compiler expects; None where the artifact does not say."""
    prediction = view.manifest.prediction
    items = [item for item in prediction.operators if item.operator in view.nodes]
    if not items:
        return None
    transfers = tuple(
        Transfer(view.stream[t.src], view.stream[t.dst], t.start_ms, t.end_ms)
        for t in prediction.transfers
        if t.src in view.nodes and t.dst in view.nodes
    )
    stages = [
        (Bar(view.stream[i.operator], view.nodes[i.operator], i.start_ms, i.end_ms), i.cost_ms)
        for i in items
    ]
    makespan_ms = prediction.makespan_ms or max(item.end_ms for item in items)
    return Timeline(_share_stages(stages), transfers, makespan_ms)


def scheduled_timeline(
    nodes: Mapping[str, Node],
    schedule: Schedule,
    prediction: Prediction,
) -> Timeline:
    """Return what the evaluator expects of a schedule of the operators `nodes`."""
    expected = {item.operator: item for item in prediction.operators}
    stages = [
        (
            Bar(
                (device.device, stream), nodes[name], expected[name].start_ms, expected[name].end_ms
            ),
            expected[name].cost_ms,
        )
        for device in schedule
        for stage in device.stages
        for stream, group in enumerate(stage.groups)
        for name in group
    ]
    stream_of = {bar.node.name: bar.stream for bar, _ in stages if bar.node is not None}
    transfers = tuple(
        Transfer(stream_of[t.src], stream_of[t.dst], t.start_ms, t.end_ms)
        for t in prediction.transfers
    )
    return Timeline(_share_stages(stages), transfers, prediction.makespan_ms or 0.0)


def rejected_timelines(view: OperatorView) -> dict[str, Timeline]:
    """Return what was expected of schedules that were tried out and not kept, by their titles.

    Those that do not fit the artifact's operators are left out: nothing else depends on them.
    """
    found = {}
    for trial in trials_of(view.manifest):
        if trial.schedule is None or trial.prediction is None:
            continue
        try:
            schedule = Schedule.from_json(json.dumps(dict(trial.schedule)))
        except ScheduleError:
            continue
        expected = {item.operator for item in trial.prediction.operators}
        if not schedule.placement.keys() == expected == view.nodes.keys():
            continue
        times = f"{milliseconds(trial.predicted_ms)}, measured {milliseconds(trial.measured_ms)}"
        title = f"not kept, {trial.scheduler} on {', '.join(trial.devices)}: predicted {times}"
        found[title] = scheduled_timeline(view.nodes, schedule, trial.prediction)
    return found


def _share_stages(operators: Iterable[tuple[Bar, float]]) -> tuple[Bar, ...]:
    """Return bars of operators, given bars of their whole stages and their costs.

    The operators of a stream group share the time of their stage as their costs do.
    """
    groups: dict[tuple[Stream, float, float], list[tuple[Bar, float]]] = {}
    for bar, cost in operators:
        groups.setdefault((bar.stream, bar.start_ms, bar.end_ms), []).append((bar, cost))
    bars = []
    for (_, start_ms, end_ms), members in groups.items():
        total, duration_ms = sum(cost for _, cost in members), end_ms - start_ms
        for bar, cost in members:
            share = cost / total if total else 1 / len(members)
            stop_ms = start_ms + share * duration_ms
            bars.append(replace(bar, start_ms=start_ms, end_ms=stop_ms))
            start_ms = stop_ms
    return tuple(bars)


def measured_timeline(view: OperatorView, trace: RunTrace) -> Timeline:
    """Return what happened in one run."""

    def ms(moment_ns: int) -> float:
        return (moment_ns - trace.start_ns) / 1e6

    end_ns = {span.name: span.end_ns for span in trace.spans if span.kind == "call"}
    bars, transfers = [], []
    for span in trace.spans:
        stream = span.device, span.stream
        if span.kind == "call":
            bars.append(Bar(stream, view.nodes[span.name], ms(span.start_ns), ms(span.end_ns)))
        elif span.kind == "copy":
            bars.append(Bar(stream, None, ms(span.start_ns), ms(span.end_ns)))
            producer = view.producer.get(span.name)
            if producer is not None and producer in end_ns:
                source = view.stream[producer]
                transfers.append(Transfer(source, stream, ms(end_ns[producer]), ms(span.end_ns)))
    return Timeline(tuple(bars), tuple(transfers), ms(trace.end_ns))


def timelines(view: OperatorView, result: BenchmarkResult | None) -> dict[str, Timeline]:
    """Return what is known of predicted and measured, each under its title."""
    found = {}
    predicted = predicted_timeline(view)
    if predicted is not None:
        found[f"predicted: {milliseconds(predicted.makespan_ms)}"] = predicted
    if result is not None and result.traces:
        measured = measured_timeline(view, median_run(result.traces))
        runs = f"the median of {len(result.traces)} runs"
        found[f"measured: {milliseconds(measured.makespan_ms)}, {runs}"] = measured
    return found


def median_run(traces: Sequence[RunTrace]) -> RunTrace:
    """Return the run of median duration."""
    ordered = sorted(traces, key=lambda trace: trace.end_ns - trace.start_ns)
    return ordered[len(ordered) // 2]
