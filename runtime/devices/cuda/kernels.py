"""Times on GPUs, by the GPU's own clock: kernels, stream groups, copies between GPUs.

As on CPUs, everything is run by the executor, so that what the host takes to feed a stream counts
where a run would wait for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hios_tvm.runtime.devices.cuda.feed_streams import GpuTask
from hios_tvm.runtime.devices.cuda.gpu import Gpu
from hios_tvm.runtime.devices.cuda.issue_order import issue_order
from hios_tvm.runtime.devices.cuda.trace import Mark
from hios_tvm.runtime.devices.samples import measurement_of
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library
from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.program import COPY_STREAM, Call, Copy, Program, Signal, Wait

_FIRST, _SECOND = "cuda:0", "cuda:1"  # names of GPUs in measurements, whichever they are
_ROUNDS = 10
_CALLS = 20  # of one kernel between two marks
_COPIES = 5
_TRANSFER_BYTES = tuple(1 << k for k in range(10, 27, 2))


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

    def kernel(self, name: str) -> Measurement:
        """Time one kernel, many in a row: what they take when the stream never runs dry."""
        buffers: dict[str, int] = {}
        call = self._call(name, buffers)
        steps = [Mark(0), *[call] * _CALLS, Mark(1)]
        times = self._run([_program(_FIRST, 0, steps)], buffers)
        return measurement_of(ms * 1e6 / _CALLS for ms in times)

    def joint(self, groups: Sequence[Sequence[str]]) -> Measurement:
        """Time stream groups at once: from where stream 0 hands over until all have ended."""
        buffers: dict[str, int] = {}
        ends = range(1, 1 + len(groups))
        main = [Mark(0), Signal(0), *(Wait(end) for end in ends), Mark(1)]
        programs = [_program(_FIRST, 0, main)]
        for end, group in zip(ends, groups, strict=True):
            calls = [self._call(name, buffers) for name in group]
            programs.append(_program(_FIRST, end, [Wait(0), *calls, Signal(end)]))
        return measurement_of(ms * 1e6 for ms in self._run(programs, buffers))

    def utilization(self, name: str) -> float:
        """Return the share of the GPU's threads that the kernel's largest launch can occupy."""
        launches = self.kernels[name].launches
        threads = max(int(np.prod(launch.grid)) * int(np.prod(launch.block)) for launch in launches)
        return min(1.0, threads / self.gpu.threads())

    def _call(self, name: str, buffers: dict[str, int]) -> Call:
        """Return a call of kernel `name` on buffers of its own."""
        kernel = self.kernels[name]
        args = []
        for nbytes in (*kernel.nbytes, *kernel.scratch):
            args.append(f"t{len(buffers)}")
            buffers[args[-1]] = nbytes
        return Call(name, name, tuple(args))

    def _run(self, programs: Sequence[Program], buffers: Mapping[str, int]) -> list[float]:
        placed = {name: (_FIRST, nbytes) for name, nbytes in buffers.items()}
        return _marked_ms({_FIRST: self}, programs, placed)


def measure_operators(
    bench: GpuBench, kernel_of: Mapping[str, str], progress: Callable[[int, int], None]
) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return the time and utilization of each operator; each kernel is timed once."""
    times: dict[str, Measurement] = {}
    for kernel in dict.fromkeys(kernel_of.values()):
        times[kernel] = bench.kernel(kernel)
        progress(len(times), len(set(kernel_of.values())))
    latency = {operator: times[kernel] for operator, kernel in kernel_of.items()}
    return latency, {operator: bench.utilization(kernel) for operator, kernel in kernel_of.items()}


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
        placed = {"from": (_FIRST, size), "to": (_SECOND, size)}
        gpus = {_FIRST: source, _SECOND: destination}
        samples = _marked_ms(gpus, [program], placed)
        times[size] = measurement_of(ms * 1e6 / _COPIES for ms in samples)
    return times


def _program(device: str, stream: int, steps: Sequence[Any]) -> Program:
    return Program(device, stream, tuple(steps))


def _marked_ms(
    benches: Mapping[str, GpuBench],
    programs: Sequence[Program],
    placed: Mapping[str, tuple[str, int]],
) -> list[float]:
    """Run the programs, and return the time between marks 0 and 1, without that of a first run.

    `placed` are the device and the bytes of each buffer.
    """
    tensors = TensorTable({name: ((nbytes,), "uint8") for name, (_, nbytes) in placed.items()})
    for name, (device, nbytes) in placed.items():
        gpu = benches[device].gpu
        address = gpu.allocate(nbytes)
        zeros = np.zeros(nbytes, np.uint8)  # no kernel reads an index beyond its tensor
        gpu.upload(address, zeros.ctypes.data, nbytes)
        tensors.place(name, address)
    device = programs[0].device
    bench = benches[device]
    marks = {number: bench.gpu.event(timing=True) for number in (0, 1)}
    events = {
        step.event: bench.gpu.event()
        for program in programs
        for step in program.instructions
        if isinstance(step, Signal)
    }
    task = GpuTask(
        label=f"cuda:{bench.gpu.index}",
        gpu=bench.gpu,
        gpus={name: other.gpu for name, other in benches.items()},
        device=device,
        programs=programs,
        order=issue_order(programs),
        events=events,
        kernels=bench.kernels,
        buffer_device={name: owner for name, (owner, _) in placed.items()},
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
