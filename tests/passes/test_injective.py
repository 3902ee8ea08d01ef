from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import Array, random
from tvm import te, topi

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.passes.cpu_rules.injective import Injective


def run(compute: Callable[..., te.Tensor], *arrays: Array) -> Array:
    """Build a kernel with the rule, and run it."""
    operands = [
        te.placeholder([tvm.tirx.const(extent, "int64") for extent in array.shape], name=f"p{i}")
        for i, array in enumerate(arrays)
    ]
    result = compute(*operands)
    kernel = Injective(16, 32).apply(te.create_prim_func([*operands, result]))
    assert kernel is not None
    library = tvm.compile(kernel.with_attr("global_symbol", "kernel"), target=host_target())
    output = tvm.runtime.tensor(np.full([int(e) for e in result.shape], np.nan, "float32"))
    library["kernel"](*(tvm.runtime.tensor(array) for array in arrays), output)
    return np.asarray(output.numpy())


shapes = st.lists(st.integers(1, 18), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 3), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_concatenation(shape: list[int], axis: int, extents: list[int]) -> None:
    axis %= len(shape)
    arrays = [
        random(*shape[:axis], extent, *shape[axis + 1 :], seed=i)
        for i, extent in enumerate(extents)
    ]
    actual = run(lambda *p: topi.nn.relu(topi.concatenate(p, axis)), *arrays)
    np.testing.assert_array_equal(actual, np.maximum(np.concatenate(arrays, axis), 0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shapes, st.data())
def test_broadcasts(shape: list[int], data: st.DataObject) -> None:
    ones = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    other = [1 if one else extent for one, extent in zip(ones, shape, strict=True)]
    a, b = random(*shape), random(*other, seed=1)
    np.testing.assert_array_equal(run(topi.add, a, b), a + b)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shapes, st.data())
def test_transpositions(shape: list[int], data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(len(shape))))
    array = random(*shape)
    actual = run(lambda p: topi.transpose(p, axes), array)
    np.testing.assert_array_equal(actual, array.transpose(axes))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shapes, st.data())
def test_pads(shape: list[int], data: st.DataObject) -> None:
    widths = st.lists(st.integers(0, 20), min_size=len(shape), max_size=len(shape))
    before, after = data.draw(widths), data.draw(widths)
    array = random(*shape)
    actual = run(lambda p: topi.nn.pad(p, before, after, 2.0), array)
    pairs = list(zip(before, after, strict=True))
    np.testing.assert_array_equal(actual, np.pad(array, pairs, constant_values=2.0))


def test_slices_with_steps() -> None:
    array = random(3, 20, 40)
    actual = run(lambda p: topi.strided_slice(p, [1, 2, 39], [3, 20, 3], [1, 3, -2]), array)
    np.testing.assert_array_equal(actual, array[1:3, 2:20:3, 39:3:-2])


def test_values_of_indices() -> None:
    def compute(p: te.Tensor) -> te.Tensor:
        return te.compute(p.shape, lambda i, j: p[i, j] + (i * 100 + j).astype("float32"))

    array = random(5, 37)
    expected = array + (np.arange(5)[:, None] * 100 + np.arange(37)).astype("float32")
    np.testing.assert_allclose(run(compute, array), expected, rtol=1e-6)


def test_a_concatenation_has_no_conditions() -> None:
    operands = [te.placeholder((4, 7, extent), name=f"p{extent}") for extent in (16, 35, 64)]
    func = te.create_prim_func([*operands, topi.concatenate(operands, 2)])
    kernel = Injective(16, 32).apply(func)
    assert kernel is not None
    assert "if_then_else" in func.script()
    assert "if" not in kernel.script().partition("def main")[2]


def test_an_element_wise_chain_is_one_loop() -> None:
    operand = te.placeholder((2, 7, 9, 16), name="p")
    kernel = Injective(16, 32).apply(
        te.create_prim_func([operand, topi.exp(topi.nn.relu(operand))])
    )
    assert kernel is not None
    assert kernel.script().count("for ") == 2  # vectors and their lanes


def test_halves_of_heads_are_rotated() -> None:
    """Indices of lanes modulo 8, under a condition: LLVM vectorizes what TVM computes by lane."""

    def rotated(x: te.Tensor, cosine: te.Tensor, sine: te.Tensor) -> te.Tensor:
        def value(i: tvm.ir.Expr, j: tvm.ir.Expr, k: tvm.ir.Expr) -> tvm.ir.Expr:
            d = k % 8
            return tvm.tirx.if_then_else(
                d < 4,
                x[i, j, k] * cosine[i, j, d] - x[i, j, k + 4] * sine[i, j, d],
                x[i, j, k - 4] * sine[i, j, d - 4] + x[i, j, k] * cosine[i, j, d - 4],
            )

        return te.compute(x.shape, value)

    x, cosine, sine = random(2, 3, 32), random(2, 3, 4), random(2, 3, 4)
    real, imaginary = np.moveaxis(x.reshape(2, 3, 4, 2, 4), 3, 0)
    c, s = cosine[:, :, None], sine[:, :, None]
    expected = np.stack([real * c - imaginary * s, real * s + imaginary * c], 3)
    np.testing.assert_allclose(
        run(rotated, x, cosine, sine), expected.reshape(2, 3, 32), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("compute", [lambda p: topi.sum(p, 1), lambda p: topi.nn.softmax(p)])
def test_reductions_are_for_other_rules(compute: Callable[[te.Tensor], te.Tensor]) -> None:
    operand = te.placeholder((4, 5), name="p")
    assert Injective(16, 32).apply(te.create_prim_func([operand, compute(operand)])) is None
