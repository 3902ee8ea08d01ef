"""Times of hand-overs and copies between CPU devices."""

from collections.abc import Sequence

import numpy as np

from hios_tvm.runtime.devices.cpu.bench import Bench, Cores
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram
from hios_tvm.runtime.devices.kernel_calls import KernelArg
from hios_tvm.runtime.devices.samples import measurement_of
from hios_tvm.runtime.native import load_library
from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.platform import Link
from hios_tvm.schema.program import Copy, Instruction, Signal, Wait

_ROUND_TRIPS = 200
_TRANSFER_BYTES = tuple(1 << k for k in range(10, 25, 2))
_CACHED_BYTES = tuple(1 << k for k in range(14, 20))  # which the caches of a core can hold


def measure_transfers(
    library: bytes,
    source: Cores,
    destination: Cores,
    sizes: Sequence[int] = _TRANSFER_BYTES,
    *,
    rounds: int = 15,
) -> dict[int, Measurement]:
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
        programs = [
            CpuProgram("source", source, produce, loaded),
            CpuProgram("destination", destination, consume, loaded),
        ]
        samples = bench.run(programs, rounds)
        result[size] = measurement_of(consumed[2] - consumed[1] for _, consumed in samples)
    return result


def measure_references(library: bytes, source: Cores, destination: Cores) -> Link:
    """Return what it costs that `destination` reads in place what `source` has just written.

    The latency is that of the hand-over. The bandwidth is of what reading takes longer than it does
    where `destination` has written the data itself: they come from the caches of other cores.
    """
    remote = measure_transfers(library, source, destination, _CACHED_BYTES)
    local = measure_transfers(library, destination, destination, _CACHED_BYTES)
    slower = [(remote[size].ms - local[size].ms) / size for size in _CACHED_BYTES]
    ms_per_byte = max(float(np.median(slower)), 1e-12)
    latency_ms = measure_handover(library, source, destination).ms
    return Link(latency_ms, 1.0 / (1e6 * ms_per_byte))


def measure_handover(
    library: bytes, first: Cores, second: Cores, *, rounds: int = 15
) -> Measurement:
    """Time from a signal on one device to the instruction after its wait on the other one."""
    loaded = load_library(library)
    ping: list[Instruction] = []
    pong: list[Instruction] = []
    for i in range(_ROUND_TRIPS):
        ping += [Signal(2 * i), Wait(2 * i + 1)]
        pong += [Wait(2 * i), Signal(2 * i + 1)]
    programs = [
        CpuProgram("first", first, ping, loaded),
        CpuProgram("second", second, pong, loaded),
    ]
    samples: list[float] = []
    for times, _ in Bench().run(programs, rounds):
        trips = np.diff(times[::2])[1:]  # the first one waits for the other worker's start
        samples.extend(trips / 2)
    return measurement_of(samples)
