"""Programs with their signals and waits: how the streams of all devices keep the order of steps."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hios_tvm.artifact.programs.device_copies import DeviceCopies
from hios_tvm.artifact.programs.instruction_order import Step, ordered_steps
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.program import Instruction, Program, Signal, Wait
from hios_tvm.schema.schedule import Schedule

_NONE: Mapping[str, Any] = MappingProxyType({})


def programs_of(
    graph: OperatorGraph,
    schedule: Schedule,
    scratch: Mapping[str, tuple[str, ...]] = _NONE,
    own_memory: Mapping[str, str] = _NONE,
) -> tuple[Program, ...]:
    """Return one program for each stream that has work, or an empty one where none has.

    Parameters
    ----------
    graph, schedule
        The operators, and where and when they run.
    scratch : operator -> buffers
        Scratch memory of kernels.
    own_memory : device -> kind
        Devices with memory of their own.
    """
    copies = DeviceCopies(graph, schedule, own_memory)
    programs = _synchronized(ordered_steps(copies, schedule, scratch))
    return programs or (Program(schedule.devices[0].device, 0, ()),)


def _synchronized(steps: Sequence[Step]) -> tuple[Program, ...]:
    """Write the programs; a wait that an earlier one of the same stream implies is left out."""
    position = {step.name: i for i, step in enumerate(steps)}  # grows along every stream
    waits: dict[str, list[str]] = {step.name: [] for step in steps}
    reached: dict[tuple[tuple[str, int], tuple[str, int]], int] = {}
    for step in steps:
        for other in sorted(set(step.after), key=position.__getitem__, reverse=True):
            streams = step.place, steps[position[other]].place
            if streams[0] != streams[1] and position[other] > reached.get(streams, -1):
                reached[streams] = position[other]
                waits[step.name].append(other)
    awaited = sorted({name for names in waits.values() for name in names}, key=position.__getitem__)
    event = {name: i for i, name in enumerate(awaited)}

    instructions: dict[tuple[str, int], list[Instruction]] = {}
    for step in steps:
        program = instructions.setdefault(step.place, [])
        program.extend(Wait(event[name]) for name in waits[step.name])
        program.append(step.instruction)
        if step.name in event:
            program.append(Signal(event[step.name]))
    return tuple(Program(*place, tuple(program)) for place, program in instructions.items())
