"""Times on this machine: kernels as they will run, transfers, hand-overs, independence.

Everything is measured by the executor itself, so the figures are those of a run. Kernels find
their activations in the cache and their weights in memory, as in a network that is larger than the
cache. `measure_programs` times whole programs in place, the others one thing alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hios_tvm.runtime.dtypes import element_type
from hios_tvm.runtime.executor import Executor, Task
from hios_tvm.runtime.instructions import Call, Copy, Instruction, Program, Signal, Wait
from hios_tvm.runtime.manifest import Buffer
from hios_tvm.runtime.memory import Arena, TensorTable, align_up
from hios_tvm.runtime.native import Library, load_library

__all__ = [
    "KernelArg",
    "KernelCall",
    "Timing",
    "measure_handover",
    "measure_independence",
    "measure_joint",
    "measure_kernels",
    "measure_programs",
    "measure_transfers",
]

Cores = tuple[int, ...]
Times = list[np.ndarray[Any, np.dtype[np.int64]]]

_MAX_CALLS = 200
_MIN_CALLS = 5
_ROUND_TRIPS = 200
_TRANSFER_BYTES = tuple(1 << k for k in range(10, 25, 2))


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median, the interquartile range, and how many samples there were."""

    ms: float
    spread_ms: float
    samples: int

    @staticmethod
    def of(nanoseconds: Iterable[float]) -> Timing:
        """Sum up samples in nanoseconds."""
        values = np.fromiter(nanoseconds, np.float64) / 1e6
        low, middle, high = np.percentile(values, (25, 50, 75))
        return Timing(float(middle), float(high - low), len(values))


@dataclass(frozen=True)
class KernelArg:
    """An argument of a kernel; those with the role ``weight`` are read from memory, not caches."""

    shape: tuple[int, ...]
    dtype: str
    role: Literal["input", "weight", "output"] = "input"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * element_type(self.dtype).nbytes


@dataclass(frozen=True)
class KernelCall:
    """A kernel and its arguments, inputs first; equal ones need to be measured only once."""

    kernel: str
    args: tuple[KernelArg, ...]


def measure_kernels(
    library: bytes,
    calls: Sequence[KernelCall],
    cores: Cores,
    *,
    budget_ms: float = 30.0,
    cold_bytes: int = 128 << 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Timing]:
    """Time each kernel alone on `cores`.

    Parameters
    ----------
    library : bytes
        From `build_library` or an artifact.
    calls
        Kernels of it; equal calls are measured once.
    cores
        Cores of one device; a kernel's parallel loops use all of them.
    budget_ms : float
        How long to run each kernel, within 5 to 200 calls.
    cold_bytes : int
        Weights lie at changing places of a region of this size: several times the last cache.
    progress : function, optional
        Called with the calls done and the calls in all.

    Returns
    -------
    list of Timing
        In the order of `calls`.
    """
    loaded = load_library(library)
    cold = _ColdMemory(cold_bytes)
    known: dict[KernelCall, Timing] = {}
    for done, call in enumerate(calls, start=1):
        if call not in known:
            known[call] = _measure_kernel(loaded, call, cores, cold, budget_ms)
        progress(done, len(calls))
    return [known[call] for call in calls]


def measure_joint(
    library: bytes,
    groups: Sequence[tuple[Cores, Sequence[KernelCall]]],
    *,
    rounds: int = 15,
    cold_bytes: int = 128 << 20,
) -> Timing:
    """Time stream groups that run at the same time, each on its cores.

    Returns
    -------
    Timing
        From the common start to the end of the last group.
    """
    loaded = load_library(library)
    bench = _Bench(_ColdMemory(cold_bytes))
    starts = _barrier(len(groups))
    tasks = [
        Task(f"group {i}", cores, [*starts[i], *(bench.calls(call)[0] for call in calls)], loaded)
        for i, (cores, calls) in enumerate(groups)
    ]
    first = len(starts[0])
    return Timing.of(
        max(t[-1] for t in times) - min(t[first] for t in times)
        for times in bench.run(tasks, rounds)
    )


def measure_programs(
    libraries: Mapping[str, bytes],
    programs: Sequence[Program],
    buffers: Sequence[Buffer],
    arena_bytes: Mapping[str, int],
    cores: Mapping[str, Cores],
    *,
    rounds: int = 10,
    warmup: int = 2,
) -> list[list[Timing]]:
    """Time each instruction of whole programs, as they run together.

    Inputs and weights hold random numbers. This is the truest time of a kernel: caches are in the
    state in which the network leaves them.

    Parameters
    ----------
    libraries, arena_bytes, cores
        By device.
    programs, buffers
        As `plan_buffers` takes and returns them.

    Returns
    -------
    list of list of Timing
        For each program, for each instruction.
    """
    tensors = TensorTable({buffer.name: (buffer.shape, buffer.dtype) for buffer in buffers})
    arenas = {device: Arena(nbytes) for device, nbytes in arena_bytes.items()}
    numbers = _Numbers()
    for buffer in buffers:
        if buffer.space == "arena":
            arena = arenas[str(buffer.device)]
            tensors.place(buffer.name, arena.address + (buffer.offset or 0))
        else:
            tensors.place(buffer.name, numbers.new(buffer.dtype, buffer.nbytes))
    tasks = [
        Task(
            program.device,
            cores[program.device],
            program.instructions,
            load_library(libraries[program.device]),
        )
        for program in programs
    ]
    samples = _run(tasks, tensors, (arenas, numbers), rounds, warmup)
    return [
        [Timing.of(column) for column in np.diff(np.stack([times[p] for times in samples])).T]
        for p in range(len(programs))
    ]


def measure_transfers(
    library: bytes,
    source: Cores,
    destination: Cores,
    sizes: Sequence[int] = _TRANSFER_BYTES,
    *,
    rounds: int = 15,
) -> dict[int, Timing]:
    """Time copies that `destination` makes of what `source` has just written.

    Returns
    -------
    dict
        From bytes to the time of the copy, without the hand-over before it.
    """
    loaded = load_library(library)
    result = {}
    for size in sizes:
        bench = _Bench()
        names = [bench.tensor(KernelArg((size,), "uint8")) for _ in range(3)]
        produce: list[Instruction] = [Copy(names[0], names[1]), Signal(0)]
        consume: list[Instruction] = [Wait(0), Copy(names[1], names[2])]
        tasks = [
            Task("source", source, produce, loaded),
            Task("destination", destination, consume, loaded),
        ]
        samples = bench.run(tasks, rounds)
        result[size] = Timing.of(consumed[2] - consumed[1] for _, consumed in samples)
    return result


def measure_handover(library: bytes, first: Cores, second: Cores, *, rounds: int = 15) -> Timing:
    """Time from a signal on one device to the instruction after its wait on the other one."""
    loaded = load_library(library)
    ping: list[Instruction] = []
    pong: list[Instruction] = []
    for i in range(_ROUND_TRIPS):
        ping += [Signal(2 * i), Wait(2 * i + 1)]
        pong += [Wait(2 * i), Signal(2 * i + 1)]
    tasks = [Task("first", first, ping, loaded), Task("second", second, pong, loaded)]
    samples: list[float] = []
    for times, _ in _Bench().run(tasks, rounds):
        trips = np.diff(times[::2])[1:]  # the first one waits for the other worker's start
        samples.extend(trips / 2)
    return Timing.of(samples)


def measure_independence(
    library: bytes, call: KernelCall, devices: Sequence[Cores], *, budget_ms: float = 200.0
) -> float:
    """Return the speed of each device while all are busy, relative to its speed alone.

    Parameters
    ----------
    call : KernelCall
        A dense kernel, such as the network's largest convolution.
    devices
        Cores of each device.

    Returns
    -------
    float
        In (0, 1]: 1 means that devices do not disturb each other.
    """
    if len(devices) < 2:
        return 1.0
    loaded = load_library(library)
    once = _measure_kernel(loaded, call, devices[0], None, budget_ms / 8)
    count = max(_MIN_CALLS, min(_MAX_CALLS, int(budget_ms / 8 / max(once.ms, 1e-4))))

    def mean_ns(together: Sequence[Cores]) -> float:
        bench = _Bench()
        starts = _barrier(len(together))
        tasks = [
            Task(f"device {i}", cores, [*starts[i], *bench.calls(call, count)], loaded)
            for i, cores in enumerate(together)
        ]
        first = len(starts[0])
        rounds = bench.run(tasks, rounds=3)
        return float(np.median([np.mean([t[-1] - t[first] for t in times]) for times in rounds]))

    return min(1.0, mean_ns(devices[:1]) / mean_ns(devices))


class _Numbers:
    """Memory with numbers that no kernel stumbles over: small random floats, zero integers."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._arenas: list[Arena] = []

    def new(self, dtype: str, nbytes: int) -> int:
        """Return the address of `nbytes` filled bytes."""
        arena = Arena(align_up(nbytes))
        self._arenas.append(arena)
        if dtype in ("float32", "float64"):
            view = arena.bytes[:nbytes].view(dtype)
            block = self._random.uniform(0.01, 0.1, min(len(view), 1 << 16))
            for start in range(0, len(view), len(block)):
                view[start : start + len(block)] = block[: len(view) - start]
        return arena.address


class _ColdMemory:
    """A large region where each weight gets a place that no recent call has read."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._numbers = _Numbers()
        self._regions: dict[str, tuple[int, int]] = {}
        self._used = 0

    def place(self, arg: KernelArg) -> int:
        """Return an address for the weight `arg`."""
        need = align_up(arg.nbytes)
        if arg.dtype not in self._regions or self._regions[arg.dtype][1] < need:
            size = max(self._nbytes, 4 * need)
            self._regions[arg.dtype] = (self._numbers.new(arg.dtype, size), size)
        address, size = self._regions[arg.dtype]
        if self._used + need > size:
            self._used = 0
        self._used += need
        return address + self._used - need


class _Bench:
    """The tensors of one measurement; weights lie in `cold` memory if there is some."""

    def __init__(self, cold: _ColdMemory | None = None) -> None:
        self._cold = cold
        self._numbers = _Numbers()
        self._specs: dict[str, tuple[tuple[int, ...], str]] = {}
        self._addresses: dict[str, int] = {}

    def calls(self, call: KernelCall, count: int = 1) -> list[Instruction]:
        """Return `count` runs of `call` that differ in where their weights lie."""
        cold = self._cold is not None
        fixed = [None if cold and arg.role == "weight" else self.tensor(arg) for arg in call.args]
        outputs = sum(arg.role == "output" for arg in call.args)
        steps: list[Instruction] = []
        for _ in range(count):
            pairs = zip(fixed, call.args, strict=True)
            names = tuple(name or self.tensor(arg) for name, arg in pairs)
            steps.append(Call(call.kernel, call.kernel, names, outputs))
        return steps

    def tensor(self, arg: KernelArg) -> str:
        """Return the name of a new tensor."""
        name = f"t{len(self._specs)}"
        self._specs[name] = (arg.shape, arg.dtype)
        if self._cold is not None and arg.role == "weight":
            self._addresses[name] = self._cold.place(arg)
        else:
            self._addresses[name] = self._numbers.new(arg.dtype, arg.nbytes)
        return name

    def run(self, tasks: Sequence[Task], rounds: int, *, warmup: int = 1) -> list[Times]:
        """Run `tasks` and return, for each round and task, when each instruction began."""
        tensors = TensorTable(self._specs)
        for name, address in self._addresses.items():
            tensors.place(name, address)
        return _run(tasks, tensors, (self._numbers, self._cold), rounds, warmup)


def _run(
    tasks: Sequence[Task], tensors: TensorTable, memory: object, rounds: int, warmup: int
) -> list[Times]:
    samples = []
    executor = Executor(tasks, tensors, memory=memory)
    try:
        for i in range(warmup + rounds):
            executor.run()
            if i >= warmup:
                samples.append([executor.times(t) for t in range(len(tasks))])
    finally:
        executor.close()
    return samples


def _measure_kernel(
    library: Library, call: KernelCall, cores: Cores, cold: _ColdMemory | None, budget_ms: float
) -> Timing:
    bench = _Bench(cold)
    task = Task(call.kernel, cores, bench.calls(call, 3), library)
    ((times,),) = bench.run([task], rounds=1, warmup=0)
    once_ms = max(1e-4, float(np.diff(times)[1:].min()) / 1e6)
    count = max(_MIN_CALLS, min(_MAX_CALLS, int(budget_ms / once_ms)))
    task = Task(call.kernel, cores, bench.calls(call, count + 1), library)
    ((times,),) = bench.run([task], rounds=1, warmup=0)
    return Timing.of(np.diff(times)[1:])  # the first call may find cold activations


def _barrier(count: int) -> list[list[Instruction]]:
    """Return for each of `count` programs the instructions that let all go on together."""
    return [
        [Signal(i), *(Wait(other) for other in range(count) if other != i)] for i in range(count)
    ]
