"""Buffers to offsets in one arena per device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hios_tvm.runtime.happens_before import HappensBefore
from hios_tvm.runtime.memory import align_up
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import Program


@dataclass(frozen=True)
class BufferPlan:
    """All buffers, those in arenas with their offsets, and the bytes of each device's arena."""

    buffers: tuple[Buffer, ...]
    arena_bytes: Mapping[str, int]


def plan_buffers(programs: Sequence[Program], buffers: Sequence[Buffer]) -> BufferPlan:
    """Give every arena buffer an offset.

    Two buffers share memory only if, in every order that signals and waits allow, one is no
    longer used when the other one is first used.

    Parameters
    ----------
    programs
        All programs, with buffers by name.
    buffers
        All buffers; those in arenas without offsets.

    Raises
    ------
    ArtifactError
        If the programs would hang.

    Notes
    -----
    Greedy by size, each buffer at the lowest offset that is free: O(n^2) for n buffers.
    Arena buffers that no instruction uses are left out.

    Examples
    --------
    >>> from hios_tvm.schema.program import Call
    >>> chain = Program("cpu@0", 0, tuple(Call(b, "k", (a, b)) for a, b in ["xa", "ab", "bc"]))
    >>> plan = plan_buffers([chain], [Buffer(n, "cpu@0", "arena", (16,), "float32") for n in "abc"])
    >>> [buffer.offset for buffer in plan.buffers], dict(plan.arena_bytes)
    ([0, 64, 0], {'cpu@0': 128})
    """
    order = HappensBefore(programs)
    offsets: dict[str, int] = {}
    arena_bytes: dict[str, int] = {program.device: 0 for program in programs}
    placed: dict[str, list[Buffer]] = {}
    needed = [b for b in buffers if b.space != "arena" or order.is_used(b.name)]
    arena = [buffer for buffer in needed if buffer.space == "arena"]
    for buffer in sorted(arena, key=lambda buffer: -buffer.nbytes):
        device = str(buffer.device)
        arena_bytes.setdefault(device, 0)
        offset = _lowest_gap(buffer, placed.setdefault(device, []), offsets, order)
        offsets[buffer.name] = offset
        placed[device].append(buffer)
        arena_bytes[device] = max(arena_bytes[device], offset + align_up(buffer.nbytes))
    planned = (
        replace(buffer, offset=offsets[buffer.name]) if buffer.space == "arena" else buffer
        for buffer in needed
    )
    return BufferPlan(tuple(planned), arena_bytes)


def _lowest_gap(
    buffer: Buffer, placed: Sequence[Buffer], offsets: Mapping[str, int], order: HappensBefore
) -> int:
    size = align_up(buffer.nbytes)
    taken = sorted(
        (offsets[other.name], offsets[other.name] + align_up(other.nbytes))
        for other in placed
        if not order.ordered(buffer.name, other.name)
    )
    offset = 0
    for start, end in taken:
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset
