"""The pass that splits an annotated module: kernels per device, one program per stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import tvm
from tvm import relax
from tvm.ir import IRModule

from hios_tvm.graph import OperatorGraph
from hios_tvm.passes.annotate_schedule import schedule_of
from hios_tvm.passes.canonicalize_operators import NUM_INPUT
from hios_tvm.passes.extract_operator_graph import bindings, is_call_tir, tensor_names
from hios_tvm.runtime.instructions import Call, Copy, Instruction, Program, Signal, Wait
from hios_tvm.runtime.manifest import Buffer
from hios_tvm.schedule import Schedule, Stage

__all__ = ["Partition", "PartitionByDevice", "programs_of"]


@dataclass(frozen=True)
class Partition:
    """What each device runs.

    `modules` holds the kernels that a device calls, `programs` one list of instructions per
    (device, stream), `buffers` what the instructions read and write, without a place in memory
    yet, `outputs` the buffers that the model returns, in its order. A copy on another device is
    a buffer of its own, called ``tensor@device``.
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
    operator for its inputs, a copy for its source. A copy is made by the device that reads it,
    right before its first reader.
    """

    def __call__(self, mod: IRModule) -> Partition:
        schedule = schedule_of(mod)
        reader = _ModuleReader(mod, schedule)
        outputs = reader.names[mod["main"].body.body]
        return Partition(
            modules={device.device: _kernels(mod, device.operators, reader) for device in schedule},
            programs=_programs(_nodes(schedule, reader)) or (_idle(reader),),
            buffers=tuple(_as_output(buffer, outputs) for buffer in reader.buffers.values()),
            outputs=outputs,
        )


def programs_of(graph: OperatorGraph, schedule: Schedule) -> tuple[Program, ...]:
    """Return the programs of `graph` under `schedule`: those of a `Partition`, without kernels."""
    reader = _GraphReader(graph, schedule)
    return _programs(_nodes(schedule, reader)) or (_idle(reader),)


class _ModuleReader:
    """Names and types of everything that `main` binds."""

    def __init__(self, mod: IRModule, schedule: Schedule) -> None:
        self.devices = [device.device for device in schedule]
        self.buffers: dict[str, Buffer] = {}
        self.names: dict[relax.Var, tuple[str, ...]] = {}  # buffers of a variable
        self.calls: dict[str, relax.Call] = {}  # by operator
        self.writes: dict[str, tuple[str, ...]] = {}  # operator -> buffers
        self.copy_of: dict[str, str] = {}  # remote copy -> the buffer that it copies
        self.writer: dict[str, str] = {}  # buffer -> operator
        main = mod["main"]
        for i, param in enumerate(main.params):
            self._add(param, "input" if i < int(main.attrs[NUM_INPUT]) else "param")
        for binding in bindings(main):
            self._read(binding.var, binding.value)

    def reads(self, operator: str) -> tuple[str, ...]:
        """Values that `operator` reads, in the order of its kernel's parameters."""
        fields = self.calls[operator].args[1].fields
        return tuple(name for var in fields for name in self.names[var])

    def kernel(self, operator: str) -> str:
        """Name of the kernel that `operator` calls."""
        return str(self.calls[operator].args[0].name_hint)

    def _read(self, var: relax.Var, value: relax.Expr) -> None:
        if is_call_tir(value):
            self._add(var, "arena")
            self.calls[var.name] = value
            self.writes[var.name] = self.names[var]
            self.writer.update(dict.fromkeys(self.names[var], var.name))
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
        if original.space != "arena":  # inputs and weights: CPUs read the same memory
            self.names[var] = (name,)
            return
        device = self.devices[var.ty.vdevice.vdevice_id]
        copy = replace(original, name=f"{name}@{device}", device=device)
        self.names[var] = (copy.name,)
        self.buffers[copy.name] = copy
        self.copy_of[copy.name] = name

    def _add(self, var: relax.Var, space: Literal["input", "param", "arena"]) -> None:
        types = list(var.ty.fields) if isinstance(var.ty, tvm.ir.TupleType) else [var.ty]
        self.names[var] = tensor_names(var.name, len(types))
        for name, ty in zip(self.names[var], types, strict=True):
            device = self.devices[ty.vdevice.vdevice_id] if space == "arena" else None
            shape = tuple(int(dim) for dim in ty.shape)
            self.buffers[name] = Buffer(name, device, space, shape, str(ty.dtype))


class _GraphReader:
    """The same of an operator graph."""

    def __init__(self, graph: OperatorGraph, schedule: Schedule) -> None:
        self.devices = [device.device for device in schedule]
        self.writes = {operator.name: operator.outputs for operator in graph.operators}
        self.writer = dict(graph.producer)
        self.copy_of: dict[str, str] = {}
        self._operator = graph.operator
        self._placement = schedule.placement

    def reads(self, operator: str) -> tuple[str, ...]:
        return tuple(self._local(name, operator) for name in self._operator[operator].inputs)

    def kernel(self, operator: str) -> str:
        return self._operator[operator].kernel

    def _local(self, name: str, operator: str) -> str:
        """Return the buffer of tensor `name` on the device of `operator`."""
        device = self._placement[operator]
        if name not in self.writer or self._placement[self.writer[name]] == device:
            return name
        copy = f"{name}@{device}"
        self.copy_of[copy] = name
        return copy


def _as_output(buffer: Buffer, outputs: tuple[str, ...]) -> Buffer:
    """Let an operator write an output of the model where its caller finds it."""
    if buffer.name in outputs and buffer.space == "arena":
        return replace(buffer, device=None, space="output")
    return buffer


_Reader = _ModuleReader | _GraphReader


@dataclass(frozen=True)
class _Node:
    """An instruction that does work, where it runs, and the nodes that must have ended before."""

    name: str
    device: str
    stream: int
    instruction: Instruction
    after: tuple[str, ...] = field(default=())


def _nodes(schedule: Schedule, reader: _Reader) -> list[_Node]:
    """Return all calls and copies in the order of each stream."""
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
                    last[stream] = node.name
    return nodes


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
    """Yield the nodes of one stream group; the first one also waits for `barrier`."""
    for operator in group:
        reads = reader.reads(operator)
        for value in dict.fromkeys(reads):
            if value in reader.copy_of and value not in copied:
                copied.add(value)
                source = reader.copy_of[value]
                after = (reader.writer[source], *barrier)
                yield _Node(value, device, stream, Copy(source, value), after)
                barrier = ()
        producers = (
            value if value in reader.copy_of else reader.writer[value]
            for value in reads
            if value in reader.copy_of or value in reader.writer
        )
        kernel = reader.kernel(operator)
        writes = reader.writes[operator]
        call = Call(operator, kernel, (*reads, *writes), len(writes))
        yield _Node(operator, device, stream, call, (*dict.fromkeys(producers), *barrier))
        barrier = ()


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
