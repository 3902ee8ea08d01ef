"""A pass that computes sums and exponentials of half-precision tensors in single precision."""

import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, operator_name, rewrite_main

_OPERATORS = frozenset(
    f"relax.{name}"
    for name in (
        "matmul",
        "mean",
        "nn.avg_pool1d",
        "nn.avg_pool2d",
        "nn.avg_pool3d",
        "nn.conv1d",
        "nn.conv1d_transpose",
        "nn.conv2d",
        "nn.conv2d_transpose",
        "nn.conv3d",
        "nn.conv3d_transpose",
        "nn.layer_norm",
        "nn.log_softmax",
        "nn.softmax",
        "sum",
    )
)
"""Operators of many steps, in which rounding errors would add up."""


@tvm.transform.module_pass(opt_level=0, name="SinglePrecision")
class SinglePrecision:
    """Convert the operands of some half-precision operators, and their result back.

    ONNX Runtime and NumPy also sum in single precision. Most CPUs have no arithmetic of half
    precision, so that kernels would convert before and after each step.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    if operator_name(value) not in _OPERATORS or _dtype(value) != "float16":
        return value
    if getattr(value.attrs, "out_dtype", None):  # asked for, whatever the operands
        return value
    operands = [
        rewriter.emit(relax.op.astype(arg, "float32")) if _dtype(arg) == "float16" else arg
        for arg in value.args
    ]
    single = Call(value.op, operands, value.attrs, value.ty_args, value.span)
    return relax.op.astype(rewriter.emit(rewriter.builder.normalize(single)), "float16")


def _dtype(value: relax.Expr) -> str:
    if not isinstance(value.ty, relax.TensorType) or value.ty.dtype is None:
        return ""
    return str(value.ty.dtype.dtype)
