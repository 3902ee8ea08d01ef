"""The pass that splits an annotated module: kernels per device, one program per stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import networkx as nx
import tvm
from tvm import relax
from tvm.ir import IRModule

from hios_tvm.passes.annotate_schedule import schedule_of
from hios_tvm.passes.canonicalize_operators import NUM_INPUT
from hios_tvm.passes.extract_operator_graph import bindings, is_call_tir, tensor_names
from hios_tvm.schema.device_names import device_kind
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import (
    COPY_STREAM,
    Call,
    Copy,
    Instruction,
    Program,
    Signal,
    Wait,
)
from hios_tvm.schema.schedule import Schedule, Stage

__all__ = ["Partition", "PartitionByDevice", "programs_of"]


@dataclass(frozen=True)
class Partition:
    """What each device runs.

    `modules` holds the kernels that a device calls, `programs` one list of instructions per
    (device, stream), `buffers` what the instructions read and write, without a place in memory
    yet, `outputs` the buffers that the model returns, in its order. A copy on another device is
    a buffer of its own, called ``tensor@device``, and so is an output that a GPU computes:
    ``tensor@output``.
    """

    modules: Mapping[str, IRModule]
    programs: tuple[Program, ...]
    buffers: tuple[Buffer, ...]
    outputs: tuple[str, ...]


class PartitionByDevice:
    """Split a module that `AnnotateSchedule` has annotated into a `Partition`.

    Streams: a stage of one stream group runs on stream 0, which has the whole device; the groups
    of a wider stage run on streams 1, 2, ... that share it. Where a device changes from one to
    the other, the new stage waits for the old one. Everything else waits for data only: an
    operator for its inputs, a copy for its source. A copy between CPUs is made by the device that
    reads it, right before its first reader. GPUs make all copies from and to them, on a stream of
    its own; they have copies of the inputs and weights that they read.

    Parameters
    ----------
    gpu_kernels
        How the kernels of GPUs are launched, by name; their scratch memory becomes buffers.
    """

    def __init__(self, gpu_kernels: Mapping[str, GpuKernel] | None = None) -> None:
        self.gpu_kernels = gpu_kernels or {}

    def __call__(self, mod: IRModule) -> Partition:
        schedule = schedule_of(mod)
        reader = _ModuleReader(mod, schedule, self.gpu_kernels)
        outputs = reader.outputs(reader.names[mod["main"].body.body])
        programs = _programs(_nodes(schedule, reader)) or (_idle(reader),)
        return Partition(
            modules={device.device: _kernels(mod, device.operators, reader) for device in schedule},
            programs=programs,
            buffers=tuple(_as_output(buffer, outputs) for buffer in reader.buffers.values()),
            outputs=outputs,
        )


def programs_of(graph: OperatorGraph, schedule: Schedule) -> tuple[Program, ...]:
    """Return the programs of `graph` under `schedule`: those of a `Partition`, without kernels."""
    reader = _GraphReader(graph, schedule)
    reader.outputs(graph.outputs)
    return _programs(_nodes(schedule, reader)) or (_idle(reader),)


class _Reader(ABC):
    """What instructions read and write.

    Attributes
    ----------
    placement, devices
        Of the schedule.
    writes : operator -> buffers
    writer : buffer -> operator
    copy_of : buffer on another device -> the buffer that it copies
    results : operator -> copies of its results that the model returns
    """

    def __init__(self, schedule: Schedule) -> None:
        self.placement = schedule.placement
        self.devices = [device.device for device in schedule]
        self.writes: dict[str, tuple[str, ...]] = {}
        self.writer: dict[str, str] = {}
        self.copy_of: dict[str, str] = {}
        self.results: dict[str, list[str]] = {}

    def outputs(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the buffers that the model returns for `names`; GPUs copy theirs there."""
        return tuple(map(self._output, names))

    def _output(self, name: str) -> str:
        operator = self.writer.get(name)
        if operator is None or device_kind(self.placement[operator]) == "cpu":
            return name
        result = f"{name}@output"
        if result not in self.copy_of:
            self.add_copy(result, name, None)
            self.results.setdefault(operator, []).append(result)
        return result

    def local(self, name: str, device: str) -> str:
        """Return the buffer of an input or a weight that `device` reads."""
        if device_kind(device) == "cpu" or name in self.writer or name in self.copy_of:
            return name
        copy = f"{name}@{device}"
        if copy not in self.copy_of:
            self.add_copy(copy, name, device)
        return copy

    def add_copy(self, copy: str, name: str, device: str | None) -> None:
        """Let buffer `copy` of `device` (None: what all CPUs read) hold what `name` holds."""
        self.copy_of[copy] = name

    @abstractmethod
    def is_weight(self, name: str) -> bool:
        """Whether buffer `name` holds a weight, which is there before a run."""

    @abstractmethod
    def reads(self, operator: str) -> tuple[str, ...]:
        """Values that `operator` reads, in the order of its kernel's parameters."""

    @abstractmethod
    def kernel(self, operator: str) -> str:
        """Name of the kernel that `operator` calls."""


class _ModuleReader(_Reader):
    """Names and types of everything that `main` binds."""

    def __init__(
        self, mod: IRModule, schedule: Schedule, gpu_kernels: Mapping[str, GpuKernel]
    ) -> None:
        super().__init__(schedule)
        self.buffers: dict[str, Buffer] = {}
        self.names: dict[relax.Var, tuple[str, ...]] = {}  # buffers of a variable
        self.calls: dict[str, relax.Call] = {}  # by operator
        self._gpu_kernels = gpu_kernels
        main = mod["main"]
        for i, param in enumerate(main.params):
            self._add(param, "input" if i < int(main.attrs[NUM_INPUT]) else "param")
        for binding in bindings(main):
            self._read(binding.var, binding.value)

    def reads(self, operator: str) -> tuple[str, ...]:
        fields = self.calls[operator].args[1].fields
        device = self.placement[operator]
        return tuple(self.local(name, device) for var in fields for name in self.names[var])

    def is_weight(self, name: str) -> bool:
        return self.buffers[name].space == "param"

    def add_copy(self, copy: str, name: str, device: str | None) -> None:
        super().add_copy(copy, name, device)
        original = self.buffers[name]
        space: Literal["param", "arena", "output"] = "arena" if device is not None else "output"
        if original.space == "param":
            space = "param"
        self.buffers[copy] = replace(original, name=copy, device=device, space=space)

    def kernel(self, operator: str) -> str:
        return str(self.calls[operator].args[0].name_hint)

    def _read(self, var: relax.Var, value: relax.Expr) -> None:
        if is_call_tir(value):
            self._add(var, "arena")
            self.calls[var.name] = value
            self.writes[var.name] = self.names[var]
            self.writer.update(dict.fromkeys(self.names[var], var.name))
            self._add_scratch(var.name)
        elif isinstance(value, relax.Tuple):
            self.names[var] = tuple(name for item in value.fields for name in self.names[item])
        elif isinstance(value, relax.TupleGetItem):
            self.names[var] = (self.names[value.tuple_value][value.index],)
        elif isinstance(value, relax.Var):
            self.names[var] = self.names[value]
        else:  # R.to_vdevice
            self._read_copy(var, value.args[0])

    def _read_copy(self, var: relax.Var, source: relax.Var) -> None:
        (name,) = self.names[source]
        original = self.buffers[name]
        if original.space != "arena":  # inputs and weights: see `local`
            self.names[var] = (name,)
            return
        device = self.devices[var.ty.vdevice.vdevice_id]
        self.names[var] = (f"{name}@{device}",)
        self.add_copy(f"{name}@{device}", name, device)

    def _add_scratch(self, operator: str) -> None:
        device = self.placement[operator]
        if device_kind(device) == "cpu":
            return
        for i, nbytes in enumerate(self._gpu_kernels[self.kernel(operator)].scratch):
            name = f"{operator}@scratch{i}"
            self.buffers[name] = Buffer(name, device, "arena", (nbytes,), "uint8")
            self.writes[operator] = (*self.writes[operator], name)

    def _add(self, var: relax.Var, space: Literal["input", "param", "arena"]) -> None:
        types = list(var.ty.fields) if isinstance(var.ty, tvm.ir.TupleType) else [var.ty]
        self.names[var] = tensor_names(var.name, len(types))
        for name, ty in zip(self.names[var], types, strict=True):
            device = self.devices[ty.vdevice.vdevice_id] if space == "arena" else None
            shape = tuple(int(dim) for dim in ty.shape)
            self.buffers[name] = Buffer(name, device, space, shape, str(ty.dtype))


class _GraphReader(_Reader):
    """The same of an operator graph."""

    def __init__(self, graph: OperatorGraph, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.writes = {operator.name: operator.outputs for operator in graph.operators}
        self.writer = dict(graph.producer)
        self._operator = graph.operator
        self._constants = set(graph.constants)

    def reads(self, operator: str) -> tuple[str, ...]:
        device = self.placement[operator]
        return tuple(self._on_device(name, device) for name in self._operator[operator].inputs)

    def is_weight(self, name: str) -> bool:
        return name in self._constants

    def kernel(self, operator: str) -> str:
        return self._operator[operator].kernel

    def _on_device(self, name: str, device: str) -> str:
        """Return the buffer of tensor `name` on `device`."""
        if name not in self.writer or self.placement[self.writer[name]] == device:
            return self.local(name, device)
        self.add_copy(f"{name}@{device}", name, device)
        return f"{name}@{device}"


def _as_output(buffer: Buffer, outputs: tuple[str, ...]) -> Buffer:
    """Let an operator write an output of the model where its caller finds it."""
    if buffer.name in outputs and buffer.space == "arena":
        return replace(buffer, device=None, space="output")
    return buffer


@dataclass(frozen=True)
class _Node:
    """An instruction that does work, where it runs, and the nodes that must have ended before."""

    name: str
    device: str
    stream: int
    instruction: Instruction
    after: tuple[str, ...] = field(default=())


def _nodes(schedule: Schedule, reader: _Reader) -> list[_Node]:
    """Return all calls and copies in an order that all streams can keep."""
    nodes: list[_Node] = []
    for device in schedule:
        copied: set[str] = set()
        last: dict[int, str] = {}  # last node of each stream of the stage before
        for stage in device.stages:
            streams = _streams(stage)
            barrier = tuple(last.values()) if set(streams) != last.keys() else ()
            last = {}
            for stream, group in zip(streams, stage.groups, strict=True):
                for node in _group_nodes(group, device.device, stream, copied, reader, barrier):
                    nodes.append(node)
                    if node.stream == stream:
                        last[stream] = node.name
    return _ordered(nodes)


def _ordered(nodes: list[_Node]) -> list[_Node]:
    """Sort the nodes where GPUs copy: what a device copies for others comes as they need it."""
    if all(node.stream != COPY_STREAM for node in nodes):
        return nodes
    graph = nx.DiGraph()
    position = {node.name: i for i, node in enumerate(nodes)}
    streams: dict[tuple[str, int], list[str]] = {}
    for node in nodes:
        graph.add_node(node.name)
        graph.add_edges_from((other, node.name) for other in node.after)
        if node.stream != COPY_STREAM:
            streams.setdefault((node.device, node.stream), []).append(node.name)
    for names in streams.values():
        graph.add_edges_from(pairwise(names))
    order = nx.lexicographical_topological_sort(graph, key=position.__getitem__)
    return [nodes[position[name]] for name in order]


def _idle(reader: _Reader) -> Program:
    """Return the only program of a model without operators."""
    return Program(reader.devices[0], 0, ())


def _streams(stage: Stage) -> range:
    return range(1) if len(stage.groups) == 1 else range(1, 1 + len(stage.groups))


def _group_nodes(
    group: tuple[str, ...],
    device: str,
    stream: int,
    copied: set[str],
    reader: _Reader,
    barrier: tuple[str, ...],
) -> Iterator[_Node]:
    """Yield the nodes of one stream group; the first one on `stream` also waits for `barrier`."""
    for operator in group:
        reads = reader.reads(operator)
        for value in dict.fromkeys(reads):
            source = reader.copy_of.get(value)
            if source is None or value in copied or reader.is_weight(source):
                continue
            copied.add(value)
            after = (reader.writer[source],) if source in reader.writer else ()
            place = _copier(reader, source, device, stream)
            if place == (device, stream):
                after, barrier = (*after, *barrier), ()
            yield _Node(value, *place, Copy(source, value), after)
        producers = (
            value if value in copied else reader.writer[value]
            for value in reads
            if value in copied or value in reader.writer
        )
        kernel = reader.kernel(operator)
        writes = reader.writes[operator]
        call = Call(operator, kernel, (*reads, *writes), len(writes))
        yield _Node(operator, device, stream, call, (*dict.fromkeys(producers), *barrier))
        barrier = ()
        for result in reader.results.get(operator, ()):
            copy = Copy(reader.copy_of[result], result)
            yield _Node(result, device, COPY_STREAM, copy, (operator,))


def _copier(reader: _Reader, source: str, device: str, stream: int) -> tuple[str, int]:
    """Return the device and stream that copy `source` to `device`: a GPU's, where there is one."""
    if device_kind(device) == "cuda":
        return device, COPY_STREAM
    operator = reader.writer.get(source)
    if operator is not None and device_kind(reader.placement[operator]) == "cuda":
        return reader.placement[operator], COPY_STREAM
    return device, stream


def _programs(nodes: list[_Node]) -> tuple[Program, ...]:
    """Write the programs; a wait that an earlier one of the same stream implies is left out."""
    place = {node.name: (node.device, node.stream) for node in nodes}
    position = {node.name: i for i, node in enumerate(nodes)}  # grows along every stream
    waits: dict[str, list[str]] = {node.name: [] for node in nodes}
    reached: dict[tuple[tuple[str, int], tuple[str, int]], int] = {}
    for node in nodes:
        here = place[node.name]
        for other in sorted(set(node.after), key=position.__getitem__, reverse=True):
            there = place[other]
            if there != here and position[other] > reached.get((here, there), -1):
                reached[here, there] = position[other]
                waits[node.name].append(other)
    awaited = sorted({name for names in waits.values() for name in names}, key=position.__getitem__)
    event = {name: i for i, name in enumerate(awaited)}

    instructions: dict[tuple[str, int], list[Instruction]] = {}
    for node in nodes:
        program = instructions.setdefault(place[node.name], [])
        program.extend(Wait(event[name]) for name in waits[node.name])
        program.append(node.instruction)
        if node.name in event:
            program.append(Signal(event[node.name]))
    return tuple(
        Program(device, stream, tuple(program))
        for (device, stream), program in instructions.items()
    )


def _kernels(mod: IRModule, operators: tuple[str, ...], reader: _ModuleReader) -> IRModule:
    """Return the kernels that `operators` call, each under its name as the exported symbol."""
    names = dict.fromkeys(reader.kernel(operator) for operator in operators)
    return IRModule({name: mod[name].with_attr("global_symbol", name) for name in names})
