from __future__ import annotations

import numpy as np
import pytest
import tvm
from lowered_models import Array, random
from tvm import te, topi

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.passes.cpu_rules.fallback import Fallback


def scheduled(func: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    kernel = Fallback(16, 32).apply(func)
    assert kernel is not None
    return kernel


def run(func: tvm.tirx.PrimFunc, shape: tuple[int, ...], *arrays: Array) -> Array:
    library = tvm.compile(func.with_attr("global_symbol", "kernel"), target=host_target())
    output = tvm.runtime.tensor(np.full(shape, np.nan, "float32"))
    library["kernel"](*(tvm.runtime.tensor(array) for array in arrays), output)
    return np.asarray(output.numpy())


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (5, 17, 33), (16, 3, 64)])
def test_products_reduce_rows_of_results(rows: int, inner: int, columns: int) -> None:
    a, b = te.placeholder((rows, inner), name="a"), te.placeholder((inner, columns), name="b")
    kernel = scheduled(te.create_prim_func([a, b, topi.matmul(a, b)]))
    x, y = random(rows, inner), random(inner, columns, seed=1)
    np.testing.assert_allclose(run(kernel, (rows, columns), x, y), x @ y, rtol=1e-4, atol=1e-5)


def test_the_contiguous_axis_is_innermost() -> None:
    a, b = te.placeholder((5, 17), name="a"), te.placeholder((17, 33), name="b")
    script = scheduled(te.create_prim_func([a, b, topi.matmul(a, b)])).script()
    assert "T.parallel(5)" in script
    assert "T.grid(17, 33)" in script


def test_sums_over_the_contiguous_axis_keep_their_loops() -> None:
    a = te.placeholder((5, 6, 33), name="a")
    kernel = scheduled(te.create_prim_func([a, topi.sum(a, 2)]))
    assert "T.parallel(30)" in kernel.script()
    x = random(5, 6, 33)
    np.testing.assert_allclose(run(kernel, (5, 6), x), x.sum(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    a = te.placeholder((3, 7, 19), name="a")
    kernel = scheduled(te.create_prim_func([a, topi.nn.softmax(a, axis)]))
    x = random(3, 7, 19)
    expected = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    np.testing.assert_allclose(run(kernel, x.shape, x), expected, rtol=1e-4)
