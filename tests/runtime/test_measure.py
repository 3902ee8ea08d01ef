"""The figures depend on the machine; what must hold everywhere is tested."""

from __future__ import annotations

import pytest
import tvm
from hand_made import BUFFERS, PROGRAMS, TARGET, elementwise

from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.backends.cpu.library import build_library
from hios_tvm.runtime.measure import (
    KernelArg,
    KernelCall,
    Timing,
    measure_handover,
    measure_independence,
    measure_joint,
    measure_kernels,
    measure_programs,
    measure_transfers,
)
from hios_tvm.schema.device_names import parse_cores

Cores = tuple[int, ...]


@pytest.fixture(scope="module")
def cores(two_devices: tuple[str, str]) -> tuple[Cores, Cores]:
    return parse_cores(two_devices[0]), parse_cores(two_devices[1])


def call(kernel: str, length: int) -> KernelCall:
    shape = (length,)
    arguments = (
        KernelArg(shape, "float32"),
        KernelArg(shape, "float32", "weight"),
        KernelArg(shape, "float32", "output"),
    )
    return KernelCall(kernel, arguments)


@pytest.fixture(scope="module")
def sized_library() -> bytes:
    """The same kernel for a short and for a long array."""
    kernels = {
        name: elementwise(name, lambda a, b: a * b + b, length)
        for name, length in (("short", 1 << 12), ("long", 1 << 18))
    }
    return build_library(tvm.IRModule(kernels), TARGET)


def test_a_timing_is_a_median_with_its_spread() -> None:
    assert Timing.of([1e6, 2e6, 3e6, 4e6, 100e6]) == Timing(3.0, 2.0, 5)


def test_more_work_takes_longer(sized_library: bytes, cores: tuple[Cores, Cores]) -> None:
    calls = [call("short", 1 << 12), call("long", 1 << 18), call("short", 1 << 12)]
    done: list[tuple[int, int]] = []
    short, long, again = measure_kernels(
        sized_library,
        calls,
        cores[0],
        budget_ms=5.0,
        cold_bytes=1 << 24,
        progress=lambda *step: done.append(step),
    )
    assert short == again  # measured once
    assert long.ms > 10 * short.ms > 0
    assert long.samples >= 5
    assert done == sorted(done) and done[-1] == (3, 3)


def test_joint_times_cover_all_groups(sized_library: bytes, cores: tuple[Cores, Cores]) -> None:
    long = call("long", 1 << 18)
    device = cores[0] + cores[1]
    one = measure_joint(sized_library, device, [[long], []], rounds=9)
    both = measure_joint(sized_library, device, [[long] * 4, [long]], rounds=9)
    assert both.samples == 9
    assert both.ms > 2 * one.ms > 0


def test_programs_are_timed_instruction_by_instruction(
    library: bytes, cores: tuple[Cores, Cores]
) -> None:
    plan = plan_buffers(PROGRAMS, BUFFERS)
    devices = ("cpu@0", "cpu@1")
    timings = measure_programs(
        dict.fromkeys(devices, library),
        PROGRAMS,
        plan.buffers,
        plan.arena_bytes,
        dict(zip(devices, cores, strict=True)),
        rounds=7,
    )
    assert [len(row) for row in timings] == [len(p.instructions) for p in PROGRAMS]
    assert all(timing.samples == 7 and timing.ms >= 0 for row in timings for timing in row)
    assert timings[0][0].ms > 0


def test_transfers_grow_with_their_size(library: bytes, cores: tuple[Cores, Cores]) -> None:
    times = measure_transfers(library, *cores, sizes=(1 << 10, 1 << 22), rounds=7)
    assert times[1 << 22].ms > 10 * times[1 << 10].ms > 0


def test_a_handover_takes_time(library: bytes, cores: tuple[Cores, Cores]) -> None:
    assert 0 < measure_handover(library, *cores, rounds=3).ms < 100


def test_independence_is_a_share(sized_library: bytes, cores: tuple[Cores, Cores]) -> None:
    long = call("long", 1 << 18)
    assert measure_independence(sized_library, long, cores[:1]) == 1.0
    assert 0 < measure_independence(sized_library, long, cores, budget_ms=20.0) <= 1.0
    shared = measure_independence(sized_library, long, [cores[0], cores[0]], budget_ms=200.0)
    assert shared < 0.9  # two devices on one core: half, and more where the machine is busy


def test_measuring_leaves_no_threads_behind(library: bytes, cores: tuple[Cores, Cores]) -> None:
    import threading

    measure_handover(library, *cores, rounds=1)
    assert not [t for t in threading.enumerate() if t.name.startswith("hios ")]
