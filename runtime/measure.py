"""Times on this machine: kernels as they will run, transfers, hand-overs, independence.

Everything is measured by the executor itself, so the figures are those of a run. Kernels find
their activations in the cache and their weights in memory, as in a network that is larger than the
cache. `measure_programs` times whole programs in place, the others one thing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hios_tvm.runtime.bench import (
    Bench,
    ColdMemory,
    Cores,
    KernelArg,
    KernelCall,
    Numbers,
    Timing,
    barrier,
    run_tasks,
)
from hios_tvm.runtime.devices.cpu import share_cores
from hios_tvm.runtime.executor import Task
from hios_tvm.runtime.memory import Arena, TensorTable
from hios_tvm.runtime.native import Library, load_library
from hios_tvm.schema.manifest import Buffer
from hios_tvm.schema.program import Copy, Instruction, Program, Signal, Wait

__all__ = [
    "COLD_BYTES",
    "KernelArg",
    "KernelCall",
    "Timing",
    "fit_link",
    "measure_handover",
    "measure_independence",
    "measure_joint",
    "measure_kernels",
    "measure_programs",
    "measure_transfers",
]

_MAX_CALLS = 200
COLD_BYTES = 128 << 20
"""Of memory for weights in measurements: several times the last cache."""

_SWEEPS = 2  # over all kernels: what disturbs one seldom lasts until the next
_MIN_CALLS = 5
_ROUND_TRIPS = 200
_TRANSFER_BYTES = tuple(1 << k for k in range(10, 25, 2))


def measure_kernels(
    library: bytes,
    calls: Sequence[KernelCall],
    cores: Cores,
    *,
    budget_ms: float = 30.0,
    cold_bytes: int = COLD_BYTES,
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
        How long to run each kernel, within 5 to 200 calls, in two parts with all other kernels
        between them: the faster one counts, since another process may have disturbed one.
    cold_bytes : int
        Weights lie at changing places of a region of this size.
    progress : function, optional
        Called with the calls done and the calls in all.

    Returns
    -------
    list of Timing
        In the order of `calls`.
    """
    loaded = load_library(library)
    cold = ColdMemory(cold_bytes)
    known: dict[KernelCall, Timing] = {}
    distinct = tuple(dict.fromkeys(calls))
    for done in range(_SWEEPS * len(distinct)):
        call = distinct[done % len(distinct)]
        timing = _measure_kernel(loaded, call, cores, cold, budget_ms / _SWEEPS)
        if call not in known or timing.ms < known[call].ms:
            known[call] = timing
        progress((done + 1) * len(calls) // (_SWEEPS * len(distinct)), len(calls))
    return [known[call] for call in calls]


def measure_joint(
    library: bytes,
    cores: Cores,
    groups: Sequence[Sequence[KernelCall]],
    *,
    rounds: int = 15,
    cold: ColdMemory | None = None,
) -> Timing:
    """Time stream groups that run at the same time on a device with `cores`.

    As in an artifact, stream 0 has all cores, and hands over to the streams of the groups, which
    have equal shares of them. Before each round it runs all kernels itself: the other streams are
    asleep by then, and weights always come from other places, of `cold` memory if it is given.

    Returns
    -------
    Timing
        From the start of the stage on stream 0 until all groups have ended, seen from there.
    """
    loaded = load_library(library)
    bench = Bench(cold or ColdMemory(COLD_BYTES))
    calls = [call for group in groups for call in group]
    main: list[Instruction] = []
    streams: list[list[Instruction]] = [[] for _ in groups]
    spans = []
    for i in range(rounds + 1):
        start, *ends = range(i * (len(groups) + 1), (i + 1) * (len(groups) + 1))
        main += [step for call in calls for step in bench.calls(call)]
        first = len(main)
        main += [Signal(start), *(Wait(end) for end in ends)]
        spans.append((first, len(main)))
        for stream, group, end in zip(streams, groups, ends, strict=True):
            steps = [step for call in group for step in bench.calls(call)]
            stream += [Wait(start), *steps, Signal(end)]
    shares = share_cores(cores, len(groups))
    tasks = [Task("stream 0", cores, main, loaded)]
    tasks += [
        Task(f"stream {i}", share, steps, loaded)
        for i, (share, steps) in enumerate(zip(shares, streams, strict=True), start=1)
    ]
    (times,) = bench.run(tasks, rounds=1, warmup=0)
    return Timing.of(times[0][end] - times[0][first] for first, end in spans[1:])


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
    numbers = Numbers()
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
    samples = run_tasks(tasks, tensors, (arenas, numbers), rounds, warmup)
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
        bench = Bench()
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


def fit_link(times: Mapping[int, Timing]) -> tuple[float, float]:
    """Fit latency + bytes / bandwidth to measured copies, as `measure_transfers` returns them.

    Relative errors count, so that small copies matter as much as large ones.

    Returns
    -------
    (float, float)
        Latency in milliseconds, and bandwidth in GB/s (1e6 bytes a millisecond).
    """
    sizes = np.array(list(times), dtype=np.float64)
    milliseconds = np.array([timing.ms for timing in times.values()])
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / milliseconds[:, None]
    (latency_ms, ms_per_byte), *_ = np.linalg.lstsq(design, np.ones_like(sizes), rcond=None)
    return max(float(latency_ms), 0.0), 1.0 / (max(float(ms_per_byte), 1e-12) * 1e6)


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
    for times, _ in Bench().run(tasks, rounds):
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
    once = _measure_kernel(loaded, call, devices[0], None, budget_ms / 16)
    count = max(_MIN_CALLS, min(_MAX_CALLS, int(budget_ms / 16 / max(once.ms, 1e-4))))

    def round_ns(together: Sequence[Cores]) -> float:
        """Return the time from the first start to the last end: a thread may start late."""
        bench = Bench()
        starts = barrier(len(together))
        tasks = [
            Task(f"device {i}", cores, [*starts[i], *bench.calls(call, count)], loaded)
            for i, cores in enumerate(together)
        ]
        first = len(starts[0])
        (times,) = bench.run(tasks, rounds=1)
        return float(max(t[-1] for t in times) - min(t[first] for t in times))

    # In turn, and the fastest of each: other processes can only make a round longer.
    rounds = [(round_ns(devices[:1]), round_ns(devices)) for _ in range(5)]
    alone_ns = min(alone for alone, _ in rounds)
    together_ns = min(together for _, together in rounds)
    return min(1.0, alone_ns / together_ns)


def _measure_kernel(
    library: Library, call: KernelCall, cores: Cores, cold: ColdMemory | None, budget_ms: float
) -> Timing:
    bench = Bench(cold)
    task = Task(call.kernel, cores, bench.calls(call, 3), library)
    ((times,),) = bench.run([task], rounds=1, warmup=0)
    once_ms = max(1e-4, float(np.diff(times)[1:].min()) / 1e6)
    count = max(_MIN_CALLS, min(_MAX_CALLS, int(budget_ms / once_ms)))
    task = Task(call.kernel, cores, bench.calls(call, count + 1), library)
    ((times,),) = bench.run([task], rounds=1, warmup=0)
    return Timing.of(np.diff(times)[1:])  # the first call may find cold activations
