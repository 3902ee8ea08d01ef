"""The figures depend on the machine; what must hold everywhere is tested."""

from __future__ import annotations

import os
import threading

import pytest
import tvm
from tvm import te, topi

from hios_tvm.backends.cpu.library import build_library
from hios_tvm.runtime.devices.cpu.copies import measure_handover, measure_transfers
from hios_tvm.runtime.devices.cpu.kernels import (
    measure_independence,
    measure_joint,
    measure_kernels,
)
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall
from hios_tvm.runtime.devices.samples import measurement_of
from hios_tvm.schema.costs import Measurement

Cores = tuple[int, ...]


@pytest.fixture(scope="module")
def cores() -> tuple[Cores, Cores]:
    """Two cores that this process may use, or one of them twice."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0],), (allowed[-1],)


def call(kernel: str, length: int) -> KernelCall:
    shape = (length,)
    arguments = (
        KernelArg(shape, "float32"),
        KernelArg(shape, "float32", "weight"),
        KernelArg(shape, "float32", "output"),
    )
    return KernelCall(kernel, arguments)


@pytest.fixture(scope="module")
def library() -> bytes:
    """The same kernel for a short and for a long array."""
    kernels = {}
    for name, length in (("short", 1 << 12), ("long", 1 << 18)):
        a, b = (te.placeholder((length,), "float32", name=tensor) for tensor in "ab")
        c = topi.add(topi.multiply(a, b), b)
        kernels[name] = te.create_prim_func([a, b, c]).with_attr("global_symbol", name)
    return build_library(tvm.IRModule(kernels), tvm.target.Target("llvm"))


def test_a_timing_is_a_median_with_its_spread() -> None:
    assert measurement_of([1e6, 2e6, 3e6, 4e6, 100e6]) == Measurement(3.0, 2.0, 5, "measured")


def test_more_work_takes_longer(library: bytes, cores: tuple[Cores, Cores]) -> None:
    calls = [call("short", 1 << 12), call("long", 1 << 18), call("short", 1 << 12)]
    done: list[tuple[int, int]] = []
    short, long, again = measure_kernels(
        library,
        [(each, cores[0]) for each in calls],
        budget_ms=5.0,
        cold_bytes=1 << 24,
        progress=lambda *step: done.append(step),
    )
    assert short == again  # measured once
    assert long.ms > 10 * short.ms > 0
    assert long.samples >= 5
    assert done == sorted(done) and done[-1] == (3, 3)


def test_joint_times_cover_all_groups(library: bytes, cores: tuple[Cores, Cores]) -> None:
    long = call("long", 1 << 18)
    device = cores[0] + cores[1]

    def are_all_covered() -> bool:
        one = measure_joint(library, device, [[long], []], rounds=9)
        both = measure_joint(library, device, [[long] * 30, [long]], rounds=9)
        assert both.samples == 9
        return both.ms > 2 * one.ms > 0

    assert any(are_all_covered() for _ in range(10))  # a busy machine disturbs either


def test_transfers_grow_with_their_size(library: bytes, cores: tuple[Cores, Cores]) -> None:
    times = measure_transfers(library, *cores, sizes=(1 << 10, 1 << 22), rounds=7)
    assert times[1 << 22].ms > 10 * times[1 << 10].ms > 0


def test_a_handover_takes_time(library: bytes, cores: tuple[Cores, Cores]) -> None:
    assert 0 < measure_handover(library, *cores, rounds=3).ms < 100


def test_independence_is_a_share(library: bytes, cores: tuple[Cores, Cores]) -> None:
    long = call("long", 1 << 18)
    assert measure_independence(library, long, cores[:1]) == 1.0
    assert 0 < measure_independence(library, long, cores, budget_ms=20.0) <= 1.0
    shared = measure_independence(library, long, [cores[0], cores[0]], budget_ms=200.0)
    assert shared < 0.9  # two devices on one core: half, and more where the machine is busy


def test_measuring_leaves_no_threads_behind(library: bytes, cores: tuple[Cores, Cores]) -> None:
    measure_handover(library, *cores, rounds=1)
    assert not [t for t in threading.enumerate() if t.name.startswith("hios ")]
