from __future__ import annotations

from collections.abc import Callable

import pytest
import tvm
from tvm import tirx
from tvm.script import tirx as T

from hios_tvm.passes.cpu_rules.loop_nest import (
    allocate,
    as_index,
    emitted,
    grid,
    parallel,
    serial,
    vectors,
    when,
)

X = tirx.decl_buffer((64, 20), "float32", "x", layout=None)
Y = tirx.decl_buffer((64, 20), "float32", "y", layout=None)


def assert_writes(write: Callable[[], None], expected: tirx.PrimFunc) -> None:
    """What `write` emits has the body of `expected`, up to the arithmetic of indices."""

    def simplified(func: tirx.PrimFunc) -> tvm.IRModule:
        return tirx.transform.StmtSimplify()(tvm.IRModule({"main": func}))

    actual = simplified(tirx.PrimFunc([X, Y], emitted(write)))
    tvm.ir.assert_structural_equal(
        actual, simplified(tirx.PrimFunc(expected.params, expected.body))
    )


def test_the_example_of_the_module() -> None:
    def write() -> None:
        for row in parallel("row", 64, work=1 << 20):
            for column in vectors("column", 0, 20, 8):
                T.buffer_store(Y, X[row, column] * 2.0, [row, column])

    @T.prim_func(s_tir=True)
    def expected(x: T.Buffer((64, 20), "float32"), y: T.Buffer((64, 20), "float32")):
        for row in T.parallel(T.int64(64)):
            for i in range(T.int64(2)):
                for lane in T.vectorized(T.int64(8)):
                    y[row, i * 8 + lane] = x[row, i * 8 + lane] * T.float32(2)
            for lane in T.vectorized(T.int64(4)):
                y[row, lane + 16] = x[row, lane + 16] * T.float32(2)

    assert_writes(write, expected)


def test_little_work_stays_on_one_thread() -> None:
    def write() -> None:
        for row in parallel("row", 64, work=64):
            T.buffer_store(Y, X[row, as_index(0)], [row, as_index(0)])

    @T.prim_func(s_tir=True)
    def expected(x: T.Buffer((64, 20), "float32"), y: T.Buffer((64, 20), "float32")):
        for row in range(T.int64(64)):
            y[row, T.int64(0)] = x[row, T.int64(0)]

    assert_writes(write, expected)


def test_loops_of_no_iteration_are_serial() -> None:
    assert _loop(0).kind == tirx.ForKind.SERIAL


def test_threads_share_iterations_evenly() -> None:
    """TVM makes 8, 16, ... tasks of the parts: it would make five of 10 iterations."""

    def write() -> None:
        for row in parallel("row", 10, work=1 << 20):
            T.buffer_store(Y, X[row, as_index(0)], [row, as_index(0)])

    @T.prim_func(s_tir=True)
    def expected(x: T.Buffer((64, 20), "float32"), y: T.Buffer((64, 20), "float32")):
        for part in T.parallel(T.int64(8)):
            for i in range(
                (part + T.int64(1)) * T.int64(10) // T.int64(8) - part * T.int64(10) // T.int64(8)
            ):
                y[part * T.int64(10) // T.int64(8) + i, T.int64(0)] = x[
                    part * T.int64(10) // T.int64(8) + i, T.int64(0)
                ]

    assert_writes(write, expected)


@pytest.mark.parametrize(("extent", "parts"), [(15, 8), (27, 16), (43, 32), (100, 64)])
def test_parts_are_a_power_of_two(extent: int, parts: int) -> None:
    assert int(_loop(extent).extent) == parts


@pytest.mark.parametrize("extent", [2, 7, 8, 16, 64, 128])
def test_numbers_that_tasks_divide_need_no_parts(extent: int) -> None:
    loop = _loop(extent)
    assert int(loop.extent) == extent
    assert not isinstance(loop.body, tirx.For)


def _loop(extent: int) -> tirx.For:
    def write() -> None:
        for row in parallel("row", extent, work=1 << 20):
            T.buffer_store(Y, X[row, as_index(0)], [row, as_index(0)])

    return emitted(write)


def test_loops_and_allocations_nest() -> None:
    def write() -> None:
        for i, j in grid([64, 20]):
            sums = allocate("sums", 4)
            T.buffer_store(sums, X[i, j], [as_index(0)])
            with when(i > 3):
                T.buffer_store(Y, sums[as_index(0)], [i, j])

    @T.prim_func(s_tir=True)
    def expected(x: T.Buffer((64, 20), "float32"), y: T.Buffer((64, 20), "float32")):
        for i in range(T.int64(64)):
            for j in range(T.int64(20)):
                sums = T.alloc_buffer((4,), "float32", layout=None)
                sums[T.int64(0)] = x[i, j]
                if i > T.int64(3):
                    y[i, j] = sums[T.int64(0)]

    assert_writes(write, expected)


def test_one_iteration_needs_no_loop_and_one_element_no_vector() -> None:
    def write() -> None:
        for row in serial("row", 1, start=5):
            for column in vectors("column", 16, 1, 8):
                with when(True):
                    T.buffer_store(Y, X[row, column], [as_index(row), as_index(column)])

    @T.prim_func(s_tir=True)
    def expected(x: T.Buffer((64, 20), "float32"), y: T.Buffer((64, 20), "float32")):
        y[T.int64(5), T.int64(16)] = x[5, 16]

    assert_writes(write, expected)


def test_an_error_in_a_loop_is_the_error_of_the_rule() -> None:
    def write() -> None:
        for _ in serial("row", 64):
            raise ValueError("no rule")

    with pytest.raises(ValueError, match="no rule"):
        emitted(write)
    assert isinstance(emitted(lambda: T.evaluate(1)), tirx.Evaluate)
