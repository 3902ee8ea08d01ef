from __future__ import annotations

import pytest
from lowered_models import Array, assert_lowers_right, kernels, lowered, model_of, random
from onnx import ModelProto, helper

from hios_tvm.backends.cpu.targets import parse_target


def product(rows: int, inner: int, columns: int) -> ModelProto:
    """A product with a constant matrix, a bias and a residual."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Add", ["r", "q"], ["y"]),
    ]
    weights: dict[str, Array] = {
        "w": random(inner, columns, seed=1),
        "b": random(columns, seed=2),
    }
    return model_of(nodes, {"x": (rows, inner), "r": (rows, columns)}, weights)


def has_parts(model: ModelProto) -> bool:
    mod = lowered(model)
    return any(
        "totals" in mod[name].script() and "for part" in mod[name].script() for name in kernels(mod)
    )


@pytest.mark.parametrize("target", ["host", "portable"])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(109, 2999, 71), (88, 3072, 16)])
def test_long_products(rows: int, inner: int, columns: int, target: str) -> None:
    assert_lowers_right(product(rows, inner, columns), target=parse_target(target))


def test_parts_are_for_inputs_that_exceed_the_cache() -> None:
    assert has_parts(product(128, 2048, 32))
    assert has_parts(product(64, 3072, 32))
    assert not has_parts(product(32, 3072, 32))
    assert not has_parts(product(128, 1536, 32))
    assert not has_parts(product(512, 768, 32))


@pytest.mark.parametrize(("rows", "is_fetched"), [(20000, True), (10000, False)])
def test_large_residuals_are_fetched_early(rows: int, is_fetched: bool) -> None:
    mod = lowered(product(rows, 32, 16))  # one block of columns, so that no weights are to come
    assert any("llvm.prefetch" in mod[name].script() for name in kernels(mod)) == is_fetched
