"""Weights of half precision stay so in memory, and kernels compute with their exact values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from lowered_models import convolved, run_module
from structure import assert_becomes
from tvm import relax
from tvm.ir import IRModule
from tvm.script import ir as I
from tvm.script import relax as R

from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.backends.network import lower, lower_network
from hios_tvm.passes.fold_batch_norm import FoldBatchNorm
from hios_tvm.passes.narrow_weights import NarrowWeights
from hios_tvm.schema.dtypes import numpy_dtype

Array = np.ndarray
RANDOM = np.random.default_rng(0)
HOST = parse_target("host")


def numbers(*shape: int, dtype: str = "float16") -> Array:
    return RANDOM.standard_normal(shape).astype(numpy_dtype(dtype))


HALF, SINGLE = numbers(64, 128).astype("float32"), numbers(64, 128, dtype="float32")
WINDOWS, CHANNELS = numbers(64, 64, 3, 3).astype("float32"), numbers(512, 1, 3, 3).astype("float32")


def test_weights_of_products_and_tables_that_are_of_half_precision() -> None:
    """Others keep their types: numbers of single precision, and depthwise convolutions."""

    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((2, 64), "float32"),
            image: R.Tensor((1, 8, 8, 64), "float32"),
            wide: R.Tensor((1, 8, 8, 512), "float32"),
            rows: R.Tensor((3,), "int64"),
        ):
            with R.dataflow():
                a = R.matmul(x, R.const(HALF))
                b = R.matmul(x, R.const(SINGLE))
                c = R.nn.conv2d(image, R.const(WINDOWS), padding=1, data_layout="NHWC")
                d = R.nn.conv2d(wide, R.const(CHANNELS), groups=512, data_layout="NHWC")
                e = R.take(R.const(HALF), rows, axis=0)
                f = (a, b, c, d, e)
                R.output(f)
            return f

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((2, 64), "float32"),
            image: R.Tensor((1, 8, 8, 64), "float32"),
            wide: R.Tensor((1, 8, 8, 512), "float32"),
            rows: R.Tensor((3,), "int64"),
        ):
            with R.dataflow():
                a = R.matmul(x, R.const(HALF.astype("float16")), out_dtype="float32")
                b = R.matmul(x, R.const(SINGLE))
                c = R.nn.conv2d(
                    image,
                    R.const(WINDOWS.astype("float16")),
                    padding=1,
                    data_layout="NHWC",
                    out_dtype="float32",
                )
                d = R.nn.conv2d(wide, R.const(CHANNELS), groups=512, data_layout="NHWC")
                taken = R.take(R.const(HALF.astype("float16")), rows, axis=0)
                e = R.astype(taken, "float32")
                f = (a, b, c, d, e)
                R.output(f)
            return f

    assert_becomes(NarrowWeights(["float16"]), Before, Expected)
    assert NarrowWeights([])(Before).same_as(Before)


@pytest.mark.parametrize("weight", [WINDOWS, WINDOWS + np.float32(1e-6)])
def test_scales_are_folded_into_weights_of_single_precision_alone(weight: Array) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 64, 8, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.conv2d(x, relax.const(weight)))
            scale = relax.const(np.full((1, 64, 1, 1), 0.7, "float32"))
            y = builder.emit_output(relax.op.multiply(y, scale))
        builder.emit_func_output(y)
    mod = builder.get()
    is_half = weight is WINDOWS
    assert ("multiply" in FoldBatchNorm(["float16"])(mod).script()) == is_half
    assert "multiply" not in FoldBatchNorm()(mod).script()


@dataclass(frozen=True)
class Window:
    """Of a convolution of 3x3 pixels with a border of one."""

    stride: int = 1
    groups: int = 1


def network(x: Array, weight: Array, window: Window | None) -> IRModule:
    """A product or a convolution in half precision, before its result is rounded."""
    dtype = weight.dtype.name
    builder = relax.BlockBuilder()
    operands = relax.Var("x", relax.TensorType(x.shape, dtype)), relax.const(weight, dtype)
    with builder.function("main", [operands[0]], {"input_names": ["x"], "output_names": ["y"]}):
        with builder.dataflow():
            if window is None:
                y = relax.op.matmul(*operands)
            else:
                options = {"strides": window.stride, "padding": 1, "groups": window.groups}
                y = relax.op.nn.conv2d(*operands, **options)
            y = builder.emit_output(relax.op.astype(builder.emit(y), "float32"))
        builder.emit_func_output(y)
    return builder.get()


@pytest.mark.parametrize(
    ("dtype", "shape", "weight", "window"),
    [
        ("bfloat16", (1, 130), (130, 70), None),
        ("float16", (300, 2500), (2500, 40), None),  # in parts
        ("bfloat16", (1, 64, 7, 6), (70, 64, 3, 3), Window(stride=2)),
        ("float16", (1, 64, 32, 32), (64, 64, 3, 3), Window()),  # by Winograd's method
        ("bfloat16", (1, 64, 32, 32), (64, 64, 3, 3), Window()),
        ("float16", (1, 512, 5, 4), (512, 4, 3, 3), Window(groups=128)),
    ],
)
def test_kernels_widen_weights(
    dtype: str, shape: tuple[int, ...], weight: tuple[int, ...], window: Window | None
) -> None:
    x, factors = numbers(*shape, dtype=dtype), numbers(*weight, dtype=dtype)
    mod = network(x, factors, window)
    stored = lower_network(mod, HOST).weights.values()
    assert dtype in {array.dtype.name for array in stored}
    (result,) = run_module(lower(mod, HOST), {"x": x}, HOST)
    wide, exact = x.astype("float64"), factors.astype("float64")
    if window is None:
        expected = wide @ exact
    else:
        expected = convolved(wide, exact, window.stride, 1, window.groups)
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
