"""Candidates that are wrong, crash or cannot be built are found out, and cost nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from tiny_network import DEVICE
from tvm import tirx
from tvm.ir import IRModule
from tvm.script import tirx as T

from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall
from hios_tvm.schema.device_names import parse_cores
from hios_tvm.tuning.candidate_bench import CandidateBench

SHAPE = (8, 256)
TARGET = host_target()


def scaling(factor: float, *, columns: int = 256, shift: int = 0) -> tirx.PrimFunc:
    """A kernel that writes products: of the first columns, `shift` rows below."""

    @T.prim_func(private=True, s_tir=True)
    def kernel(x: T.Buffer((8, 256), "float32"), y: T.Buffer((8, 256), "float32")):
        for i, j in T.grid(8, columns):
            with T.sblock("scale"):
                row, column = T.axis.remap("SS", [i, j])
                y[row + shift, column] = x[row, column] * T.float32(factor)

    return kernel


doubled = scaling(2)
almost_doubled = scaling(2.001)
half_done = scaling(2, columns=255)
crashing = scaling(1, shift=1 << 40)


def library(kernel: tirx.PrimFunc) -> bytes:
    return link_library(compile_kernels(IRModule({"kernel": kernel}), TARGET).values(), TARGET)


@pytest.fixture(scope="module")
def bench() -> Iterator[CandidateBench]:
    call = KernelCall("any", (KernelArg(SHAPE, "float32"), KernelArg(SHAPE, "float32", "output")))
    with closing(CandidateBench(doubled, doubled, call, TARGET, parse_cores(DEVICE))) as bench:
        yield bench


def test_a_right_candidate_has_a_time(bench: CandidateBench) -> None:
    trial = bench.measure("[]", library(doubled))
    assert trial.failure is None
    assert trial.ms is not None and 0 < trial.ms < 1000


@pytest.mark.parametrize("kernel", [almost_doubled, half_done])
def test_a_wrong_candidate_is_found_out(bench: CandidateBench, kernel: tirx.PrimFunc) -> None:
    trial = bench.measure("[]", library(kernel))
    assert trial.ms is None
    assert "differ from the default kernel's" in str(trial.failure)


def test_a_crash_ends_one_trial_and_no_more(bench: CandidateBench) -> None:
    trial = bench.measure("[]", library(crashing))
    assert trial.ms is None
    assert "crashed" in str(trial.failure)
    assert bench.measure("[]", library(doubled)).failure is None


def test_what_cannot_be_built_is_a_failed_trial(bench: CandidateBench) -> None:
    right, wrong = bench.build(["[[], []]", '[[["GetLoops", ["b7"], [], []]], []]'])
    assert isinstance(right, bytes)
    assert bench.measure("[[], []]", right).failure is None
    assert "does not fit its kernel" in str(bench.measure("", wrong).failure)


def test_kernels_are_compared_in_turns(bench: CandidateBench) -> None:
    default_ms, same_ms = bench.compare(["[[], []]"])
    assert default_ms > 0
    assert same_ms > 0
