"""An annotated module as what each device runs: kernels, programs and buffers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tvm.ir import IRModule

from hios_tvm.artifact.programs.device_copies import DeviceCopies
from hios_tvm.artifact.programs.synchronization import programs_of
from hios_tvm.passes.annotate_schedule import schedule_of
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.runtime.devices import kind_of
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import Program

Space = Literal["input", "param", "arena", "output"]


@dataclass(frozen=True)
class Partition:
    """What each device runs.

    Attributes
    ----------
    modules : device -> IRModule
        The kernels that the device calls.
    programs
        The instructions of each stream.
    buffers
        What the instructions read and write, without a place in memory yet.
    outputs
        The buffers that the model returns, in its order.
    """

    modules: Mapping[str, IRModule]
    programs: tuple[Program, ...]
    buffers: tuple[Buffer, ...]
    outputs: tuple[str, ...]


def partition_by_device(
    mod: IRModule, launches: Mapping[str, Mapping[str, GpuKernel]] = MappingProxyType({})
) -> Partition:
    """Translate a module that `AnnotateSchedule` has annotated.

    Parameters
    ----------
    mod : IRModule
        With its schedule as an attribute.
    launches : mapping
        How the kernels of devices are launched that do it from their own code, by device and name;
        their scratch memory becomes buffers.
    """
    schedule = schedule_of(mod)
    graph = extract_operator_graph(mod)
    kinds = {device.device: kind_of(device.device) for device in schedule}
    own_memory = {name: kind.kind for name, kind in kinds.items() if kind.own_memory}
    copies = DeviceCopies(graph, schedule, own_memory)
    scratch = _scratch(copies, launches)
    names = {operator: tuple(b.name for b in buffers) for operator, buffers in scratch.items()}
    return Partition(
        modules={d.device: _kernels(mod, graph, d.operators) for d in schedule},
        programs=programs_of(graph, schedule, names, own_memory),
        buffers=_buffers(copies, scratch),
        outputs=tuple(map(copies.output_buffer, graph.outputs)),
    )


def _kernels(mod: IRModule, graph: OperatorGraph, operators: tuple[str, ...]) -> IRModule:
    """Return the kernels that `operators` call, each under its name as the exported symbol."""
    names = dict.fromkeys(graph.operator[operator].kernel for operator in operators)
    return IRModule({name: mod[name].with_attr("global_symbol", name) for name in names})


def _scratch(
    copies: DeviceCopies, launches: Mapping[str, Mapping[str, GpuKernel]]
) -> dict[str, tuple[Buffer, ...]]:
    """Return the scratch memory of each operator that is launched."""
    kernel = {operator.name: operator.kernel for operator in copies.graph.operators}
    return {
        operator: tuple(
            Buffer(f"{operator}@scratch{i}", copies.arena(device), "arena", (nbytes,), "uint8")
            for i, nbytes in enumerate(launches[device][kernel[operator]].scratch)
        )
        for operator, device in copies.schedule.placement.items()
        if launches.get(device)
    }


def _buffers(copies: DeviceCopies, scratch: Mapping[str, tuple[Buffer, ...]]) -> tuple[Buffer, ...]:
    """Return a buffer for each tensor, for each copy of one, and for scratch memory."""
    graph = copies.graph
    outputs = set(map(copies.output_buffer, graph.outputs))
    buffers: dict[str, Buffer] = {}

    def add(name: str, tensor: str, device: str | None, space: Space) -> None:
        value = graph.tensor[tensor]
        buffers.setdefault(name, Buffer(name, device, space, value.shape, value.dtype))

    for tensor in graph.inputs:
        add(tensor, tensor, None, "input")
    for tensor in graph.constants:
        add(tensor, tensor, None, "param")
    for operator in graph.operators:
        device = copies.schedule.placement[operator.name]
        arena = copies.arena(device)
        for tensor in operator.inputs:
            name = copies.buffer(tensor, device)
            if name != tensor:
                add(name, tensor, arena, "param" if tensor in copies.weights else "arena")
        for tensor in operator.outputs:
            if tensor in outputs:  # the kernel writes it where the caller gets it
                add(tensor, tensor, None, "output")
            else:
                add(tensor, tensor, arena, "arena")
        buffers |= {buffer.name: buffer for buffer in scratch.get(operator.name, ())}
    for tensor in graph.outputs:
        add(copies.output_buffer(tensor), tensor, None, "output")
    return tuple(buffers.values())
