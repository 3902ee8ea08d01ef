"""A pass that stores weights in half precision, as the model has them.

`WidenHalf` makes single precision of all tensors of a half-precision model, and passes behind it
rearrange, join and split its weights. Where these still are numbers of half precision, they become
constants of that type again. Kernels of convolutions and products widen them where they read them,
and so does what reads rows of a table::

    y = conv2d(x, w)       # becomes
    y = conv2d(x, float16(w), out_dtype="float32")

    y = take(w, rows)      # becomes
    y = astype(take(float16(w), rows), "float32")

It runs on channels-last images, right before operators become kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import (
    Rewriter,
    bindings,
    constant_value,
    operator_name,
    rewrite_main,
)
from hios_tvm.schema.dtypes import numpy_dtype

HALF = ("float16", "bfloat16")

_LEAST_BYTES = 1 << 13
"""Of weights in half precision: smaller ones take no memory that matters."""


@tvm.transform.module_pass(opt_level=0, name="NarrowWeights")
class NarrowWeights:
    """Store weights in the first of the types `half` that has all of their numbers."""

    def __init__(self, half: Sequence[str]) -> None:
        self.half = tuple(half)

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        def narrow(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            weight = _weight(value)
            narrow = None if weight is None else narrowed(weight, self.half)
            return value if narrow is None else _with_weight(rewriter, value, narrow)

        return rewrite_main(mod, narrow) if self.half else mod


def half_types(mod: IRModule) -> tuple[str, ...]:
    """Return the types of half precision that tensors of `main` have."""
    main = mod["main"]
    tensors = [var.ty for var in (*main.params, *(binding.var for binding in bindings(main)))]
    found = {str(ty.dtype) for ty in tensors if isinstance(ty, relax.TensorType)}
    return tuple(name for name in HALF if name in found)


def narrowed(weight: np.ndarray, half: Sequence[str]) -> np.ndarray | None:
    """Return `weight` in the first of the types `half` that has all of its numbers, if any.

    >>> narrowed(np.full(8192, 0.5, "float32"), ["float16"]).dtype
    dtype('float16')
    >>> narrowed(np.full(8192, 0.1, "float32"), ["float16"]) is None
    True
    """
    if weight.dtype != np.float32 or weight.nbytes < 2 * _LEAST_BYTES:
        return None
    for name in half:
        with np.errstate(over="ignore"):
            narrow = weight.astype(numpy_dtype(name))
        if np.array_equal(narrow.astype(np.float32), weight):
            return narrow
    return None


def _weight(value: relax.Expr) -> np.ndarray | None:
    """Return the constant of a product, or the table, that kernels read in half precision."""
    name = operator_name(value)
    if name == "relax.take":
        return constant_value(value.args[0])
    if name == "relax.matmul":
        weight = constant_value(value.args[1])
        return weight if weight is not None and weight.ndim == 2 else None
    if name != "relax.nn.conv2d" or str(value.attrs.data_layout) != "NHWC":
        return None
    weight = constant_value(value.args[1])
    is_depthwise = weight is not None and int(value.attrs.groups) > 1 and weight.shape[1] == 1
    return None if is_depthwise else weight


def _with_weight(rewriter: Rewriter, call: Call, weight: np.ndarray) -> relax.Expr:
    constant, attrs = relax.const(weight, weight.dtype.name), call.attrs
    name = operator_name(call)
    if name == "relax.take":
        rows = Call(call.op, [constant, *call.args[1:]], attrs)
        return relax.op.astype(rewriter.emit(rewriter.builder.normalize(rows)), "float32")
    if name == "relax.matmul":
        return relax.op.matmul(call.args[0], constant, out_dtype="float32")
    return relax.op.nn.conv2d(
        call.args[0],
        constant,
        strides=attrs.strides,
        padding=attrs.padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
        data_layout=attrs.data_layout,
        kernel_layout=attrs.kernel_layout,
        out_layout=attrs.out_layout,
        out_dtype="float32",
    )
