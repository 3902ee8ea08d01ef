"""Times of kernels on CPUs, as they will run: alone, in stream groups, and on several devices.

Everything is measured by the executor itself, so the figures are those of a run. Kernels find
their activations in the cache and their weights in memory, as in a network that is larger than the
cache. Copies are measured in `copies`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from hios_tvm.runtime.devices.cpu.bench import Bench, ColdMemory, Cores, barrier
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram
from hios_tvm.runtime.devices.cpu.cores import share_cores
from hios_tvm.runtime.devices.kernel_calls import KernelCall
from hios_tvm.runtime.devices.samples import measurement_of
from hios_tvm.runtime.native import Library, load_library
from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.program import Instruction, Signal, Wait

_MAX_CALLS = 100
COLD_BYTES = 128 << 20
"""Of memory for weights in measurements: several times the last cache."""

_SWEEPS = 2  # over all kernels: what disturbs one seldom lasts until the next
_MIN_CALLS = 5
_FIRST_CALLS = 2  # which say how many fit into the budget


def measure_kernels(
    library: bytes,
    calls: Sequence[tuple[KernelCall, Cores]],
    *,
    budget_ms: float = 20.0,
    cold_bytes: int = COLD_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Measurement]:
    """Time each kernel alone on cores of a device.

    Parameters
    ----------
    library : bytes
        From `build_library` or an artifact.
    calls
        Kernels of it, each with the cores of a device, all of which its parallel loops use. Equal
        pairs are measured once. They are measured in this order, and a machine's speed drifts: put
        the same kernel on several devices next to each other where the ratio of their times counts.
    budget_ms : float
        How long to run each kernel, within 5 to 100 calls, in parts with all other kernels between
        them: the fastest one counts, since another process may have disturbed one.
    cold_bytes : int
        Weights lie at changing places of a region of this size.
    progress : function, optional
        Called with the calls done and the calls in all.

    Returns
    -------
    list of Measurement
        In the order of `calls`.
    """
    loaded = load_library(library)
    cold = ColdMemory(cold_bytes)
    known: dict[tuple[KernelCall, Cores], Measurement] = {}
    distinct = tuple(dict.fromkeys(calls))
    for done in range(_SWEEPS * len(distinct)):
        pair = call, cores = distinct[done % len(distinct)]
        once = known.get(pair) or _measure_calls(loaded, call, cores, cold, _FIRST_CALLS)
        timing = _measure_calls(loaded, call, cores, cold, _calls_in(budget_ms / _SWEEPS, once))
        if pair not in known or timing.ms < known[pair].ms:
            known[pair] = timing
        progress((done + 1) * len(calls) // (_SWEEPS * len(distinct)), len(calls))
    return [known[pair] for pair in calls]


def measure_joint(
    library: bytes,
    cores: Cores,
    groups: Sequence[Sequence[KernelCall]],
    *,
    rounds: int = 15,
    cold: ColdMemory | None = None,
) -> Measurement:
    """Time stream groups that run at the same time on a device with `cores`.

    As in an artifact, stream 0 has all cores, and hands over to the streams of the groups, which
    have equal shares of them. Before each round it runs all kernels itself: the other streams are
    asleep by then, and weights always come from other places, of `cold` memory if it is given.

    Returns
    -------
    Measurement
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
    programs = [CpuProgram("stream 0", cores, main, loaded)]
    programs += [
        CpuProgram(f"stream {i}", share, steps, loaded)
        for i, (share, steps) in enumerate(zip(shares, streams, strict=True), start=1)
    ]
    (times,) = bench.run(programs, rounds=1, warmup=0)
    return measurement_of(times[0][end] - times[0][first] for first, end in spans[1:])


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
    once = _measure_calls(loaded, call, devices[0], None, _MIN_CALLS)
    count = _calls_in(budget_ms / 16, once)

    def round_ns(together: Sequence[Cores]) -> float:
        """Return the time from the first start to the last end: a thread may start late."""
        bench = Bench()
        starts = barrier(len(together))
        programs = [
            CpuProgram(f"device {i}", cores, [*starts[i], *bench.calls(call, count)], loaded)
            for i, cores in enumerate(together)
        ]
        first = len(starts[0])
        (times,) = bench.run(programs, rounds=1)
        return float(max(t[-1] for t in times) - min(t[first] for t in times))

    # In turn, and the fastest of each: other processes can only make a round longer.
    rounds = [(round_ns(devices[:1]), round_ns(devices)) for _ in range(5)]
    alone_ns = min(alone for alone, _ in rounds)
    together_ns = min(together for _, together in rounds)
    return min(1.0, alone_ns / together_ns)


def _calls_in(budget_ms: float, once: Measurement) -> int:
    return max(_MIN_CALLS, min(_MAX_CALLS, int(budget_ms / max(once.ms, 1e-4))))


def _measure_calls(
    library: Library, call: KernelCall, cores: Cores, cold: ColdMemory | None, count: int
) -> Measurement:
    bench = Bench(cold)
    program = CpuProgram(call.kernel, cores, bench.calls(call, count + 1), library)
    ((times,),) = bench.run([program], rounds=1, warmup=0)
    return measurement_of(np.diff(times)[1:])  # the first call may find cold activations
