"""Checks of a manifest before anything of the artifact runs.

Devices, buffers and programs must fit each other: no access out of bounds, none to the memory of
another device, which only its own parts share. The order of instructions (`happens_before`) proves
the rest: no hang, no read before the write, and no race between buffers that share memory.
"""

import bisect
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TypeAlias

from hios_tvm.errors import ArtifactError, DeviceError
from hios_tvm.runtime.check_sessions import check_sessions
from hios_tvm.runtime.devices import HOST, kind_of
from hios_tvm.runtime.devices.interface import DeviceKind
from hios_tvm.runtime.happens_before import HappensBefore
from hios_tvm.schema.device_names import whole_device
from hios_tvm.schema.dtypes import tensor_bytes
from hios_tvm.schema.manifest import (
    ALIGNMENT,
    Buffer,
    Manifest,
    PredictedOperator,
    PredictedTransfer,
    Prediction,
)
from hios_tvm.schema.program import (
    COPY_STREAM,
    Call,
    Copy,
    Program,
    reads_and_writes,
)

MAX_STREAMS = 64
MAX_DEVICES = 256
MAX_INSTRUCTIONS = 1 << 15  # the order of more would take too long to prove
MAX_ARGUMENTS = 1 << 20  # of all calls together


TensorTypes: TypeAlias = Mapping[str, tuple[tuple[int, ...], str]]


def check_manifest(
    manifest: Manifest,
    weights: TensorTypes,
    sources: TensorTypes = MappingProxyType({}),
) -> None:
    """Check everything that running the artifact relies on.

    Parameters
    ----------
    manifest : Manifest
        As read from the archive.
    weights, sources
        Shape and dtype of each tensor in ``params.safetensors`` and ``sources.safetensors``.

    Raises
    ------
    ArtifactError
        On the first rule that is broken.
    """
    _check_amounts(manifest)
    _check_devices(manifest)
    check_sessions(manifest)
    _check_prepared(manifest, weights, sources)
    _check_buffers(manifest, weights)
    _check_interface(manifest)
    _check_programs(manifest)
    _check_operators(manifest)
    for device in manifest.devices:
        kind_of(device.name).check_code(device, manifest)
    order = HappensBefore(manifest.programs)
    for buffer in manifest.buffers:
        _check_accesses(buffer, order)
    for check in manifest.checks:
        _require(order.writers(check.buffer) == 1, f"{check.operator!r} is never checked")
    for spec in manifest.outputs:
        buffer = manifest.buffer[spec.buffer]
        _require(
            buffer.space != "output" or order.writers(buffer.name) == 1,
            f"output {spec.name!r} is never computed",
        )
    _check_shared_memory(manifest, order)
    _check_prediction(manifest.prediction)


def _check_amounts(manifest: Manifest) -> None:
    """Compare what the other checks go through with what they can do in seconds."""
    steps = [step for program in manifest.programs for step in program.instructions]
    arguments = sum(len(step.args) for step in steps if isinstance(step, Call))
    for what, count, most in (
        ("devices", len(manifest.devices), MAX_DEVICES),
        ("programs", len(manifest.programs), MAX_DEVICES * MAX_STREAMS),
        ("instructions", len(steps), MAX_INSTRUCTIONS),
        ("arguments", arguments, MAX_ARGUMENTS),
    ):
        _require(count <= most, f"it has {count} {what}, more than {most}")
    for spec in (*manifest.inputs, *manifest.outputs):
        tensor_bytes(spec.shape, spec.dtype)
    for buffer in manifest.buffers:
        tensor_bytes(buffer.shape, buffer.dtype)


def _check_devices(manifest: Manifest) -> None:
    _unique("device", (device.name for device in manifest.devices))
    _require(bool(manifest.devices), "the artifact has no device")
    for device in manifest.devices:
        try:
            kind = kind_of(device.name)
            kind.check_names((device.name,))
        except DeviceError as error:
            raise ArtifactError(str(error)) from error
        _require(device.kind == kind.kind, f"device {device.name!r} has the kind {device.kind!r}")
    streams = [(program.device, program.stream) for program in manifest.programs]
    _unique("program", (f"{device} stream {stream}" for device, stream in streams))
    for name, stream in streams:
        _require(name in manifest.device, f"a program is for the unknown device {name!r}")
        _require(
            stream <= MAX_STREAMS or (kind_of(name).own_memory and stream == COPY_STREAM),
            f"device {name!r} has a stream {stream}",
        )
        _require(
            manifest.device[name].library is not None, f"device {name!r} has work but no library"
        )
    _require(bool(streams), "the artifact has no program")


def _check_prediction(prediction: Prediction) -> None:
    """Check what reports rely on: each operator once, and times that go forward."""
    _unique("prediction of operator", (item.operator for item in prediction.operators))
    spans: tuple[PredictedOperator | PredictedTransfer, ...]
    spans = (*prediction.operators, *prediction.transfers)
    for span in spans:
        _require(0 <= span.start_ms <= span.end_ms, "a prediction ends before it starts")
    _require(all(item.cost_ms >= 0 for item in prediction.operators), "a cost is negative")


def _check_prepared(manifest: Manifest, weights: TensorTypes, sources: TensorTypes) -> None:
    """Weights that are prepared lie in the host's memory, where CPUs compute them from sources."""
    _unique("prepared weight", (weight.name for weight in manifest.prepared))
    returned = {spec.buffer for spec in manifest.outputs}
    for weight in manifest.prepared:
        where = f"the prepared weight {weight.name!r}"
        buffer = manifest.buffer.get(weight.name)
        _require(
            buffer is not None and (buffer.space, buffer.device) == ("param", None),
            f"{where} has no buffer of the host",
        )
        _require(weight.name not in weights, f"{where} is stored, too")
        _require(weight.name not in returned, f"{where} is an output")
        _require(weight.source in sources, f"{where} has no source {weight.source!r}")
    _require(
        not manifest.prepared or preparing_device(manifest) is not None,
        "weights are to be prepared, and no CPU has a library",
    )


def preparing_device(manifest: Manifest) -> str | None:
    """Return the first CPU with a library, which has the kernels that prepare weights."""
    with_code = (d for d in manifest.devices if d.kind == HOST and d.library is not None)
    first = next(with_code, None)
    return None if first is None else first.name


def _check_buffers(manifest: Manifest, weights: TensorTypes) -> None:
    _unique("buffer", (buffer.name for buffer in manifest.buffers))
    prepared = {weight.name for weight in manifest.prepared}
    for buffer in manifest.buffers:
        where = f"buffer {buffer.name!r}"
        if buffer.space == "arena":
            device = manifest.device.get(buffer.device or "")
            if device is None or buffer.offset is None:
                raise ArtifactError(f"{where} is in the arena of no device or has no offset")
            end = buffer.offset + buffer.nbytes
            _require(
                end <= device.arena_bytes,
                f"{where} ends at byte {end}, the arena of {device.name} has {device.arena_bytes}",
            )
            _require(buffer.offset % ALIGNMENT == 0, f"{where} is not aligned")
        else:
            _require(
                buffer.device is None
                or (
                    buffer.space == "param"
                    and buffer.device in manifest.device
                    and kind_of(buffer.device).own_memory
                ),
                f"{where} must belong to no device",
            )
            _require(buffer.offset is None, f"{where} must have no offset")
        if buffer.space == "param" and buffer.name not in prepared:
            _require(
                weights.get(buffer.weight) == (buffer.shape, buffer.dtype),
                f"{where} is no weight of that shape and dtype",
            )


def _check_interface(manifest: Manifest) -> None:
    _unique("input", (spec.name for spec in manifest.inputs))
    _unique("output", (spec.name for spec in manifest.outputs))
    _unique("buffer of an input", (spec.buffer for spec in manifest.inputs))
    for spec in (*manifest.inputs, *manifest.outputs):
        buffer = manifest.buffer.get(spec.buffer)
        if buffer is None or (buffer.shape, buffer.dtype) != (spec.shape, spec.dtype):
            raise ArtifactError(f"tensor {spec.name!r} has no buffer of its shape and dtype")
    for check in manifest.checks:
        buffer = manifest.buffer.get(check.buffer)
        _require(
            buffer is not None
            and (buffer.space, buffer.dtype) == ("output", "int64")
            and len(buffer.shape) == 2
            and buffer.shape[0] == 2
            and check.column < buffer.shape[1],
            f"a check of {check.operator!r} has no extremes to compare",
        )
    given = {spec.buffer for spec in manifest.inputs}
    returned = {spec.buffer for spec in manifest.outputs}
    returned |= {check.buffer for check in manifest.checks}
    for buffer in manifest.buffers:
        if buffer.space == "input":
            _require(buffer.name in given, f"buffer {buffer.name!r} belongs to no input")
        elif buffer.space == "output":
            _require(buffer.name in returned, f"buffer {buffer.name!r} belongs to no output")
        _require(
            buffer.space == "input" or buffer.name not in given,
            f"input buffer {buffer.name!r} is not in the input space",
        )
        _require(
            buffer.space != "arena" or buffer.name not in returned,
            f"output buffer {buffer.name!r} is in an arena",
        )
        _require(
            buffer.device is None or buffer.name not in returned,
            f"output buffer {buffer.name!r} is on a GPU",
        )


def _check_programs(manifest: Manifest) -> None:
    for program in manifest.programs:
        for step in program.instructions:
            if isinstance(step, Call):
                _require(
                    1 <= step.outputs <= len(step.args),
                    f"operator {step.operator!r} has {step.outputs} outputs among "
                    f"{len(step.args)} arguments",
                )
            reads, writes = reads_and_writes(step)
            for name in (*reads, *writes):
                _require(name in manifest.buffer, f"a program uses the unknown buffer {name!r}")
            for name in writes:
                _require(
                    manifest.buffer[name].space in ("arena", "output"),
                    f"a program writes buffer {name!r}, which is an input or a weight",
                )
            if isinstance(step, Copy):
                _check_copy(manifest, program, step)
            elif isinstance(step, Call):
                _check_call(manifest, program, step)


def _check_copy(manifest: Manifest, program: Program, step: Copy) -> None:
    """A copy has equal ends; devices without memory of their own copy within the host's.

    Devices with memory of their own copy from it or to it, and reach their kind's and the host's.
    """
    src, dst = manifest.buffer[step.src], manifest.buffer[step.dst]
    _require(
        (src.shape, src.dtype) == (dst.shape, dst.dtype),
        f"a copy from {src.name!r} to {dst.name!r}, which has another shape or dtype",
    )
    kind, ends = kind_of(program.device), (src.device, dst.device)
    if kind.own_memory:
        own = any(_is_memory_of(program.device, end) for end in ends)
        reaches = own and all(_reaches(kind, end) for end in ends)
    else:
        reaches = not any(map(_has_own_memory, ends))
    where = f"a program of {program.device!r}"
    _require(reaches, f"{where} uses buffer {dst.name!r} of another device")


def _reaches(kind: DeviceKind, device: str | None) -> bool:
    return not _has_own_memory(device) or kind_of(device or "") is kind


def _is_memory_of(device: str, owner: str | None) -> bool:
    """Whether `device` computes in the memory that `owner` has: parts of one device share it."""
    return owner is not None and whole_device(owner) == whole_device(device)


def _has_own_memory(device: str | None) -> bool:
    return device is not None and kind_of(device).own_memory


def _check_call(manifest: Manifest, program: Program, step: Call) -> None:
    """A kernel finds its arguments in its device's memory: CPUs reach all of the host's."""
    own_memory = kind_of(program.device).own_memory
    for name in step.args:
        device = manifest.buffer[name].device
        _require(
            _is_memory_of(program.device, device) if own_memory else not _has_own_memory(device),
            f"a program of {program.device!r} uses buffer {name!r} of another device",
        )


def _check_operators(manifest: Manifest) -> None:
    """Calls write what the operator graph says: an output that no kernel writes stays as it was.

    The first buffers that a call writes have the names of its operator's results; scratch memory,
    where the device has memory of its own, is behind them.
    """
    if manifest.graph is None:
        return
    for program in manifest.programs:
        may_have_scratch = kind_of(program.device).own_memory
        for step in program.instructions:
            if not isinstance(step, Call):
                continue
            operator = manifest.graph.operator.get(step.operator)
            _, writes = reads_and_writes(step)
            known = () if operator is None else operator.outputs
            extra = writes[len(known) :]
            _require(
                bool(known) and writes == known + extra and (may_have_scratch or not extra),
                f"operator {step.operator!r} writes {list(writes)}, the operator graph says "
                f"{list(known)}",
            )


def _check_accesses(buffer: Buffer, order: HappensBefore) -> None:
    name = buffer.name
    if buffer.space not in ("arena", "output") or not order.is_used(name):
        return
    _require(
        order.writers(name) == 1,
        f"buffer {name!r} is written {order.writers(name)} times, not once",
    )
    _require(order.written_first(name), f"buffer {name!r} may be read before it is written")


def _check_shared_memory(manifest: Manifest, order: HappensBefore) -> None:
    """Check that buffers whose bytes overlap are used one after the other."""
    for device in manifest.devices:
        arena = [
            (buffer.offset or 0, buffer)
            for buffer in manifest.buffers
            if buffer.device == device.name
            and buffer.space == "arena"
            and buffer.nbytes
            and order.is_used(buffer.name)
        ]
        _check_overlaps(arena, order)


def _check_overlaps(arena: Iterable[tuple[int, Buffer]], order: HappensBefore) -> None:
    """Go through the arena from its start, with the buffers that hold the current byte.

    These are used one after the other. The order is transitive, so that a new buffer is compared
    only with its neighbours in time.
    """
    live: list[tuple[int, str]] = []  # when they are written, and their names
    ends: list[tuple[int, tuple[int, str]]] = []  # a heap
    for offset, buffer in sorted(arena, key=lambda item: (item[0], item[1].name)):
        while ends and ends[0][0] <= offset:
            live.remove(heapq.heappop(ends)[1])
        key = (order.written_at(buffer.name), buffer.name)
        place = bisect.bisect(live, key)
        live.insert(place, key)
        heapq.heappush(ends, (offset + buffer.nbytes, key))
        for (_, first), (_, second) in pairwise(live[max(0, place - 1) : place + 2]):
            _require(
                order.precedes(first, second),
                f"buffers {first!r} and {second!r} overlap and may be in use at the same time",
            )


def _unique(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        _require(count == 1, f"{what} {name!r} is named {count} times")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ArtifactError(message)
