from __future__ import annotations

import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import assert_lowers_right, kernels, lowered, model_of, random
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import host_target, parse_target
from hios_tvm.passes.canonicalize_operators import collect_weights

extents = st.sampled_from([1, 2, 3, 7, 15, 16, 17, 31, 33, 48, 65])


def product(left: tuple[int, ...], right: tuple[int, ...], activation: bool = False) -> ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p" if activation else "y"])]
    if activation:
        nodes.append(helper.make_node("Relu", ["p"], ["y"]))
    return model_of(nodes, {"x": left, "w": right})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from([(), (3,), (2, 3)]), extents, extents, extents, st.booleans())
def test_any_product(
    batch: tuple[int, ...], rows: int, inner: int, columns: int, activation: bool
) -> None:
    assert_lowers_right(product((*batch, rows, inner), (*batch, inner, columns), activation))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(extents, extents, extents)
def test_any_product_without_avx512(rows: int, inner: int, columns: int) -> None:
    model = product((2, rows, inner), (2, inner, columns))
    assert_lowers_right(model, target=parse_target("portable"))


def test_product_of_a_matrix_and_itself() -> None:
    assert_lowers_right(model_of([helper.make_node("MatMul", ["x", "x"], ["y"])], {"x": (5, 5)}))


@pytest.mark.parametrize(
    ("left", "right"),
    [((5, 7), (2, 7, 3)), ((1, 5, 7), (4, 7, 3)), ((7,), (7, 3)), ((2, 3, 5, 7), (3, 7, 4))],
)
def test_operands_that_are_broadcast(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    assert_lowers_right(product(left, right))


def test_large_matrices_are_shared_in_chunks() -> None:
    assert_lowers_right(product((301, 700), (700, 130)))


def test_sums_stay_in_registers() -> None:
    """The rule writes the result once, never reads it back, and calls for no memory."""
    mod = lowered(product((64, 64), (64, 64)))
    (name,) = (name for name in kernels(mod) if "matmul" in name)
    text = mod[name].script()
    assert "+ matmul" not in text
    code = tvm.tirx.build(
        tvm.IRModule({name: mod[name].with_attr("global_symbol", name)}), target=host_target()
    )
    assert "AllocWorkspace" not in code.inspect_source("ll")


def test_half_precision_is_left_to_tvm_in_single_precision() -> None:
    model = product((5, 40), (40, 6))
    for value in model.graph.input:
        value.type.tensor_type.elem_type = 10
    feeds = {"x": random(5, 40).astype("float16"), "w": random(40, 6).astype("float16")}
    assert_lowers_right(model, feeds, tolerance=1e-3)


def test_products_with_one_matrix_share_its_packed_weights() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    model = model_of(nodes, {"x": (3, 32)}, {"w": random(32, 32)})
    weights = collect_weights(lowered(model))
    assert [array.size for array in weights.values()] == [32 * 32]
