"""Times on GPUs, by the GPU's own clock: kernels, stream groups, copies between GPUs, hand-overs.

The executor runs everything. A long copy comes first, while the host puts all that is measured
into streams, so that kernels do not wait for the host: a CUDA graph does not either. The weights
of a network are larger than a GPU's cache, so each call reads others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from hios_tvm.runtime.devices.cuda.feed_streams import GpuTask
from hios_tvm.runtime.devices.cuda.gpu import Gpu
from hios_tvm.runtime.devices.cuda.issue_order import issue_order
from hios_tvm.runtime.devices.cuda.trace import Mark
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall
from hios_tvm.runtime.devices.samples import fit_link, measurement_of
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library
from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.platform import Link
from hios_tvm.schema.program import COPY_STREAM, Call, Copy, Program, Signal, Wait

_FIRST, _SECOND = "cuda:0", "cuda:1"  # names of GPUs in measurements, whichever they are
_ROUNDS = 10
_CALLS = 20  # of one kernel between two marks
_COPIES = 5
_ROUND_TRIPS = 5  # of hand-overs: the host puts three times as much into streams for each
_TRANSFER_BYTES = tuple(1 << k for k in range(10, 27, 2))
_FLOATS = ("float16", "float32", "float64")
_DRAWN = 1 << 16  # floats that are drawn, and repeated
_COLD_BYTES = 1 << 29  # of copies of a weight
_RUNWAY_BYTES = 256 << 20  # a copy of so many takes 100 us on the fastest memories
_WARM_UP_S = 0.2  # until clocks have risen


@dataclass(frozen=True)
class GpuBench:
    """A GPU with kernels that can be measured.

    Attributes
    ----------
    gpu : Gpu
    kernels : name -> GpuKernel
        How kernels of its code are launched.
    library : Library
        Has the executor.
    """

    gpu: Gpu
    kernels: Mapping[str, GpuKernel]
    library: Library

    def warm_up(self, call: KernelCall) -> None:
        """Run a kernel for a while: a GPU without work lowers its clocks."""
        end = time.monotonic() + _WARM_UP_S
        self.kernel(call)
        while time.monotonic() < end:
            self.kernel(call)

    def kernel(self, call: KernelCall) -> Measurement:
        """Time one kernel, many in a row: what they take when the stream never runs dry."""
        buffers = _Buffers()
        steps = [buffers.runway(), Mark(0), *self.calls(call, buffers, _CALLS), Mark(1)]
        times = self._run([_program(_FIRST, 0, steps)], buffers)
        return measurement_of(ms * 1e6 / _CALLS for ms in times)

    def joint(self, groups: Sequence[Sequence[KernelCall]]) -> Measurement:
        """Time stream groups at once: from where stream 0 hands over until all have ended."""
        buffers = _Buffers()
        ends = range(1, 1 + len(groups))
        main = [buffers.runway(), Mark(0), Signal(0), *(Wait(end) for end in ends), Mark(1)]
        programs = [_program(_FIRST, 0, main)]
        for end, group in zip(ends, groups, strict=True):
            calls = [step for call in group for step in self.calls(call, buffers)]
            programs.append(_program(_FIRST, end, [Wait(0), *calls, Signal(end)]))
        return measurement_of(ms * 1e6 for ms in self._run(programs, buffers))

    def utilization(self, name: str) -> float:
        """Return the share of the GPU's room for blocks that the kernel's fullest launch takes."""
        launches = self.kernels[name].launches
        shares = (math.prod(step.grid) / self.gpu.resident_blocks(step) for step in launches)
        return min(1.0, max(shares))

    def calls(self, call: KernelCall, buffers: _Buffers, count: int = 1) -> list[Call]:
        """Return `count` calls of a kernel on the same tensors, but for weights."""
        kernel = self.kernels[call.kernel]
        scratch = (*kernel.nbytes, *kernel.scratch)[len(call.args) :]
        args = (*call.args, *(KernelArg((nbytes,), "uint8") for nbytes in scratch))
        names = [buffers.new(arg, count if arg.role == "weight" else 1) for arg in args]
        return [
            Call(call.kernel, call.kernel, tuple(some[i % len(some)] for some in names))
            for i in range(count)
        ]

    def _run(self, programs: Sequence[Program], buffers: _Buffers) -> list[float]:
        return _marked_ms({_FIRST: self}, programs, buffers.placed)


@dataclass(frozen=True)
class _Buffer:
    """Bytes of a device's memory; numbers of the type are in it where it is one of floats."""

    device: str
    nbytes: int
    dtype: str = "uint8"

    def content(self) -> np.ndarray[Any, Any]:
        """Return small random floats, or zeros: no kernel reads an index beyond its tensor."""
        if self.dtype not in _FLOATS:
            return np.zeros(self.nbytes, np.uint8)
        block = np.random.default_rng(0).uniform(0.01, 0.1, _DRAWN).astype(self.dtype)
        return np.resize(block.view(np.uint8), self.nbytes)


@dataclass(frozen=True)
class _Buffers:
    """The buffers of a measurement on one GPU, by name."""

    placed: dict[str, _Buffer] = field(default_factory=dict)

    def new(self, arg: KernelArg, copies: int) -> list[str]:
        """Return the names of so many new buffers for an argument, or fewer large ones."""
        return [
            self._add(_Buffer(_FIRST, arg.nbytes, arg.dtype))
            for _ in range(max(1, min(copies, _COLD_BYTES // max(1, arg.nbytes))))
        ]

    def runway(self) -> Copy:
        """Return a long copy, after which the GPU's cache has nothing of the other buffers."""
        names = (self._add(_Buffer(_FIRST, _RUNWAY_BYTES)) for _ in range(2))
        return Copy(*names)

    def _add(self, buffer: _Buffer) -> str:
        name = f"t{len(self.placed)}"
        self.placed[name] = buffer
        return name


def measure_operators(
    bench: GpuBench, calls: Mapping[str, KernelCall], progress: Callable[[int, int], None]
) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return the time and utilization of each operator; equal calls are timed once."""
    times: dict[KernelCall, Measurement] = {}
    different = dict.fromkeys(calls.values())
    bench.warm_up(next(iter(different)))
    for call in different:
        times[call] = bench.kernel(call)
        progress(len(times), len(different))
    latency = {operator: times[call] for operator, call in calls.items()}
    return latency, {name: bench.utilization(call.kernel) for name, call in calls.items()}


def measure_copies(
    source: GpuBench,
    destination: GpuBench,
    sizes: Sequence[int] = (),
) -> dict[int, Measurement]:
    """Time copies that `destination` makes from `source`, by their bytes."""
    times = {}
    for size in sizes or _TRANSFER_BYTES:
        copies = [Copy("from", "to")] * _COPIES
        program = _program(_SECOND, COPY_STREAM, [Mark(0), *copies, Mark(1)])
        placed = {"from": _Buffer(_FIRST, size), "to": _Buffer(_SECOND, size)}
        gpus = {_FIRST: source, _SECOND: destination}
        samples = _marked_ms(gpus, [program], placed)
        times[size] = measurement_of(ms * 1e6 / _COPIES for ms in samples)
    return times


def measure_hand_over(first: GpuBench, second: GpuBench, call: KernelCall) -> Measurement:
    """Time what a kernel waits longer for one on another part of the GPU than on its own.

    A kernel runs on both parts in turn, behind an event of the other part each time; the same
    number of them in a row, on one part, is subtracted.
    """
    buffers = _Buffers()
    runway = buffers.runway()
    calls = first.calls(call, buffers, 2 * _ROUND_TRIPS)
    ping: list[Any] = [runway, Mark(0)]
    pong: list[Any] = []
    for i, (one, other) in enumerate(zip(calls[::2], calls[1::2], strict=True)):
        ping += [one, Signal(2 * i), Wait(2 * i + 1)]
        pong += [Wait(2 * i), other, Signal(2 * i + 1)]
    in_turn = [_program(_FIRST, 0, [*ping, Mark(1)]), _program(_SECOND, 0, pong)]
    in_a_row = [_program(_FIRST, 0, [runway, Mark(0), *calls, Mark(1)])]
    parts = {_FIRST: first, _SECOND: second}
    apart, together = (_marked_ms(parts, p, buffers.placed) for p in (in_turn, in_a_row))
    alone_ms = float(np.median(together))
    waits_ns = ((ms - alone_ms) * 1e6 / len(calls) for ms in apart)
    return measurement_of(max(0.0, nanoseconds) for nanoseconds in waits_ns)


def measure_links(benches: Sequence[GpuBench], call: KernelCall) -> tuple[Link | None, Link | None]:
    """Return what copies between GPUs and hand-overs between parts of one take.

    Parameters
    ----------
    benches
        Of all that there is; None is returned for what it takes others for.
    call : KernelCall
        A short kernel, between whose calls parts hand over.
    """
    first, *others = benches
    apart = (other for other in others if other.gpu.index != first.gpu.index)
    parts = (other for other in others if other.gpu.index == first.gpu.index)
    copies = [fit_link(measure_copies(first, other)) for other in islice(apart, 1)]
    references = [
        Link(measure_hand_over(first, other, call).ms, math.inf) for other in islice(parts, 1)
    ]
    return next(iter(copies), None), next(iter(references), None)


def _program(device: str, stream: int, steps: Sequence[Any]) -> Program:
    return Program(device, stream, tuple(steps))


def _marked_ms(
    benches: Mapping[str, GpuBench],
    programs: Sequence[Program],
    placed: Mapping[str, _Buffer],
) -> list[float]:
    """Run the programs, and return the time between marks 0 and 1, without that of a first run."""
    tensors = TensorTable({name: ((each.nbytes,), "uint8") for name, each in placed.items()})
    for name, buffer in placed.items():
        gpu = benches[buffer.device].gpu
        address = gpu.allocate(buffer.nbytes)
        content = buffer.content()
        gpu.upload(address, content.ctypes.data, buffer.nbytes)
        tensors.place(name, address)
    devices = dict.fromkeys(program.device for program in programs)  # of one GPU
    bench = benches[programs[0].device]
    marks = {number: bench.gpu.event(timing=True) for number in (0, 1)}
    events = {
        step.event: bench.gpu.event()
        for program in programs
        for step in program.instructions
        if isinstance(step, Signal)
    }
    task = GpuTask(
        index=bench.gpu.index,
        devices=dict.fromkeys(devices, f"cuda:{bench.gpu.index}"),
        gpus={name: other.gpu for name, other in benches.items()},
        programs=programs,
        order=issue_order(programs),
        events=events,
        kernels=bench.kernels,
        buffer_device={name: buffer.device for name, buffer in placed.items()},
        library=bench.library,
        marks=marks,
    )
    samples = []
    executor = Executor([task], tensors)
    try:
        for i in range(_ROUNDS + 1):
            executor.run()
            if i > 0:
                samples.append(bench.gpu.elapsed_ms(marks[0], marks[1]))
    finally:
        executor.close()
        for each in benches.values():
            each.gpu.free()
    return samples
