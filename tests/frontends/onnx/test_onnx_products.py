"""Products and normalizations, against ONNX Runtime or ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import assert_cases_agree, case, joined_model, noise

from hios_tvm.errors import UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

Array = np.ndarray
RANDOM = np.random.default_rng(0)
EQUATIONS: dict[str, list[tuple[int, ...]]] = {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "ii->i": [(3, 3)],
    "ii": [(3, 3)],
    "...ij,...jk->...ik": [(2, 1, 2, 3), (5, 3, 4)],
    "bij,bjk,bkl->bil": [(2, 2, 3), (2, 3, 4), (2, 4, 2)],
    "i,j->ij": [(3,), (4,)],
    "ij,kj->": [(2, 3), (4, 3)],
    "b...i,ij->b...j": [(2, 5, 3), (3, 4)],
    "ba,cb": [(2, 3), (4, 2)],
    ",i->i": [(), (3,)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint64"])
def test_matrix_products(dtype: str) -> None:
    def matrix(*shape: int) -> Array:
        return RANDOM.integers(0, 5, shape).astype(dtype)

    cases = {
        "matrices": case("MatMul", {"a": matrix(3, 4), "b": matrix(4, 5)}),
        "vectors": case("MatMul", {"a": matrix(4), "b": matrix(4)}),
        "rows": case("MatMul", {"a": matrix(4), "b": matrix(2, 4, 5)}),
        "stacks": case("MatMul", {"a": matrix(2, 1, 3, 4), "b": matrix(5, 4, 2)}),
        "itself": case("MatMul", {"x": matrix(4, 4)}, order=["x", "x"]),
        "without bias": case("Gemm", {"a": matrix(3, 4), "b": matrix(4, 2)}),
    }
    factors = {"alpha": 0.5, "beta": 0.25} if dtype.startswith("float") else {}
    for i, shape in enumerate([(5,), (3, 1), (), (3, 5)]):
        left, right = ((4, 3) if i // 2 else (3, 4)), ((5, 4) if i % 2 else (4, 5))
        data = {"a": matrix(*left), "b": matrix(*right), "c": matrix(*shape)}
        options = {"transA": i // 2, "transB": i % 2, **factors}
        cases[f"Gemm {shape}"] = case("Gemm", data, **options)
    assert_cases_agree(cases, rtol=1e-6, reference=not dtype.startswith("float"))


def test_einstein_sums() -> None:
    cases = {
        f"sum {i}": case(
            "Einsum",
            {f"x{k}": noise(*shape, seed=k) for k, shape in enumerate(shapes)},
            equation=equation,
        )
        for i, (equation, shapes) in enumerate(EQUATIONS.items())
    }
    assert_cases_agree(cases, rtol=1e-5, atol=1e-6, reference=True)


def test_determinants() -> None:
    cases = {str(n): case("Det", {"x": noise(2, n, n)}) for n in (1, 2, 3, 4)}
    assert_cases_agree(cases, rtol=1e-4, atol=1e-6)
    with pytest.raises(UnsupportedOperatorError, match="up to 4 rows"):
        from_onnx(joined_model({"large": case("Det", {"x": noise(5, 5)})}))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_normalizations(dtype: str) -> None:
    x = (noise(2, 4, 5, 3) * 2 + 7).astype(dtype)

    def vector(seed: int, *shape: int) -> Array:
        return (np.abs(noise(*(shape or (4,)), seed=seed)) + 0.3).astype(dtype)

    pair = {"s": vector(1), "b": vector(2)}
    cases = {
        "batch": case("BatchNormalization", {"x": x}, {**pair, "m": vector(3), "v": vector(4)}),
        "computed": case("BatchNormalization", {"x": x, **pair, "m": vector(3), "v": vector(4)}),
        "instance": case("InstanceNormalization", {"x": x}, pair),
        "group": case("GroupNormalization", {"x": x}, pair, num_groups=2),
        "layer": case("LayerNormalization", {"x": x}, {"s": vector(1, 3), "b": vector(2, 3)}),
        "layers": case("LayerNormalization", {"x": x}, {"s": vector(1, 4, 5, 3)}, axis=1),
        "squares": case("RMSNormalization", {"x": x}, {"s": vector(1, 5, 3)}, axis=2),
        "1-norm": case("LpNormalization", {"x": x}, p=1, axis=1),
        "2-norm": case("LpNormalization", {"x": x}, p=2, axis=1),
    }
    if dtype == "float32":
        cases["moments"] = case("MeanVarianceNormalization", {"x": x}, axes=[1, 3])
        cases["statistics"] = case(
            "LayerNormalization", {"x": x}, {"s": vector(1, 3)}, outputs=["y", "m", "d"]
        )
        cases["response"] = case("LRN", {"x": x}, size=3, alpha=0.1, bias=1.5)
    rtol = 3e-3 if dtype == "float16" else 1e-4
    assert_cases_agree(cases, opset=23, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_responses_of_even_windows_reach_further_up(size: int, beta: float) -> None:
    """As the standard has it; ONNX Runtime refuses them, the reference sums the wrong channels."""
    from hios_tvm import onnx_backend

    x = noise(1, 7, 3, 4)
    expected = np.empty_like(x)
    for channel in range(7):
        low, high = max(0, channel - (size - 1) // 2), channel + size // 2 + 1
        squares = (x[:, low:high] ** 2).sum(1)
        expected[:, channel] = x[:, channel] / (1 + 0.1 / size * squares) ** beta
    model = joined_model({"l": case("LRN", {"x": x}, size=size, alpha=0.1, beta=beta)})
    (result,) = onnx_backend.prepare(model).run([x])
    np.testing.assert_allclose(result, expected, rtol=1e-5)
