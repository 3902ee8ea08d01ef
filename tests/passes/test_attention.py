from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from attention_models import ADDED, attention, exact, feeds_of, node
from lowered_models import (
    Array,
    kernels,
    lowered,
    model_of,
    random,
    run_lowered,
    run_module,
    run_onnx_runtime,
)
from onnx import ModelProto, TensorProto, helper
from structure import assert_becomes
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.passes.fuse_attention import FuseAttention
from hios_tvm.passes.schedule_kernels import NO_RULE


def run_as_one_kernel(model: ModelProto, feeds: Mapping[str, Array], target: str = "host") -> Array:
    """The output of `model`, all of which is one kernel that a rule knows."""
    mod = lowered(model, parse_target(target))
    (name,) = kernels(mod)
    assert NO_RULE not in mod[name].attrs
    (y,) = run_module(mod, feeds, parse_target(target))
    return y


@pytest.mark.parametrize(
    ("sizes", "mask_shape", "target"),
    [
        ((1, 2, 1, 37, 16, 16), None, "host"),
        ((2, 3, 9, 49, 16, 32), (2, 1, 9, 49), "host"),
        ((1, 2, 67, 33, 20, 36), (1, 1, 1, 33), "host"),
        ((1, 2, 67, 33, 20, 36), (1, 1, 1, 33), "portable"),
        ((1, 1, 700, 19, 8, 5), (19,), "portable"),
        ((1, 1, 9, 1300, 17, 16), None, "host"),
    ],
)
def test_numbers(
    sizes: tuple[int, int, int, int, int, int], mask_shape: tuple[int, ...] | None, target: str
) -> None:
    mask = np.zeros((), np.float32) if mask_shape is None else random(*mask_shape, seed=9)
    model = attention(sizes, [ADDED], {"mask": mask})
    feeds = feeds_of(model)
    y = run_as_one_kernel(model, feeds, target)
    expected = exact(sizes, feeds, mask.astype("float64"))
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_masks_and_their_rows_without_a_key() -> None:
    """A row whose keys are all masked is NaN, or what the exporter writes for NaN."""
    sizes = (2, 2, 10, 10, 16, 16)
    mask = np.tril(np.ones((10, 10), bool), -1)  # the first query sees nothing
    causal = [node("Where", "mask", "s", "lowest", "t")]
    without_nan = [node("IsNaN", "p", "n"), node("Where", "n", "zero", "p", "w")]
    for tail, first_row in (([], np.nan), (without_nan, 0.0)):
        model = attention(sizes, causal, {"mask": mask}, tail)
        feeds = feeds_of(model)
        y, (theirs,) = run_as_one_kernel(model, feeds), run_onnx_runtime(model, feeds)
        np.testing.assert_array_equal(y[:, 0], first_row)
        np.testing.assert_allclose(y, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", ["host", "portable"])
def test_nan_and_infinity_pass_through(target: str) -> None:
    sizes = (1, 1, 19, 35, 16, 16)
    model = attention(sizes)
    feeds = feeds_of(model)
    feeds["q"][0, 3, 5] = np.nan
    feeds["q"][0, 4] = np.inf
    feeds["k"][0, 30, 2] = 200.0
    y = run_as_one_kernel(model, feeds, target)
    assert np.isnan(y[0, 3:5]).all()
    np.testing.assert_allclose(y, run_onnx_runtime(model, feeds)[0], rtol=0, atol=1e-5)


def test_a_limit_of_the_scores() -> None:
    """Scores may go through any element-wise operators, and reshapes between batches."""
    sizes = (2, 3, 3, 5, 16, 16)
    limit = [
        node("Tanh", "s", "h"),
        node("Reshape", "h", "flat", "f"),
        node("Div", "f", "scale", "d"),
        node("Reshape", "d", "again", "t"),
    ]
    shapes = {"flat": np.array([6, 3, 5]), "again": np.array([2, 3, 3, 5])}
    model = attention(sizes, limit, shapes)
    feeds = feeds_of(model)
    (theirs,) = run_onnx_runtime(model, feeds)
    np.testing.assert_allclose(run_as_one_kernel(model, feeds), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "domain", "attributes"),
    [
        ("Attention", "", {"q_num_heads": 2, "kv_num_heads": 2}),
        ("MultiHeadAttention", "com.microsoft", {"num_heads": 2}),
    ],
)
def test_operators_of_attention(operator: str, domain: str, attributes: dict[str, int]) -> None:
    one = helper.make_node(operator, ["q", "k", "v"], ["y"], domain=domain, **attributes)
    model = model_of([one], {"q": (1, 9, 32), "k": (1, 20, 32), "v": (1, 20, 32)})
    model.opset_import[0].version = 23
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    feeds = feeds_of(model)
    (theirs,) = run_onnx_runtime(model, feeds)
    np.testing.assert_allclose(run_as_one_kernel(model, feeds), theirs, rtol=0, atol=1e-5)


def test_scores_that_are_read_elsewhere_are_stored() -> None:
    model = attention((1, 2, 9, 9, 16, 16))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, (1, 2, 9, 9)))
    assert len([name for name in kernels(lowered(model)) if "matmul" in name]) == 2
    feeds = feeds_of(model)
    for ours, theirs in zip(run_lowered(model, feeds), run_onnx_runtime(model, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_operators_become_one_function() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(
            q: R.Tensor((2, 5, 8), "float32"),
            k: R.Tensor((2, 7, 8), "float32"),
            v: R.Tensor((2, 7, 4), "float32"),
        ):
            with R.dataflow():
                a = R.exp(q)
                b = R.permute_dims(k, axes=[0, 2, 1])
                c = R.matmul(a, b)
                d = R.multiply(c, R.const(0.5, "float32"))
                e = R.nn.softmax(d, axis=-1)
                f = R.matmul(e, v)
                g = R.permute_dims(f, axes=[1, 0, 2])
                y = R.exp(g)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            q: R.Tensor((2, 5, 8), "float32"),
            k: R.Tensor((2, 7, 8), "float32"),
            v: R.Tensor((2, 7, 4), "float32"),
        ):
            cls = Expected
            with R.dataflow():
                a = R.exp(q)
                b: R.Tensor((5, 2, 4), "float32") = cls.attention1(k, a, R.const(0.5, "float32"), v)
                y = R.exp(b)
                R.output(y)
            return y

        @R.function(private=True)
        def attention1(
            k: R.Tensor((2, 7, 8), "float32"),
            q: R.Tensor((2, 5, 8), "float32"),
            scale: R.Tensor((), "float32"),
            v: R.Tensor((2, 7, 4), "float32"),
        ) -> R.Tensor((5, 2, 4), "float32"):
            R.func_attr({"Primitive": 1})
            with R.dataflow():
                a = R.permute_dims(k, axes=[0, 2, 1])
                b = R.matmul(q, a)
                c = R.multiply(b, scale)
                d = R.nn.softmax(c, axis=-1)
                e = R.matmul(d, v)
                y = R.permute_dims(e, axes=[1, 0, 2])
                R.output(y)
            return y

    assert_becomes(FuseAttention(), Before, Expected)
