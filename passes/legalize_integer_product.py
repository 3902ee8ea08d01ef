"""Legalizations of convolutions and products of ``uint8`` with constant ``int8`` weights.

`IntegerProducts` has brought them into this form: input channels (of each group) are a multiple of
4, and zero points are subtracted from the sums, which are ``int32``.
"""

import numpy as np
from tvm import relax
from tvm.ir import Call

from hios_tvm.passes.dataflow import constant_value
from hios_tvm.passes.legalize_convolution import (
    convolution,
    convolution_shape,
    product,
    product_shape,
)
from hios_tvm.schema.kernel_shapes import INTEGER_CONVOLUTION, OUT_ELEMENTWISE_FUSABLE

INTEGER_KERNEL = "integer_"
"""What the names of these kernels have, also of those with an epilogue."""

_ATTRIBUTES = {"op_pattern": OUT_ELEMENTWISE_FUSABLE}


def legalize_integer_conv2d(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a convolution of ``uint8`` with ``int8`` weights, or None for any other."""
    data, weight = call.args
    shape = convolution_shape(call)
    array = constant_value(weight)
    if shape is None or array is None or not _is_integer(call):
        return None
    return builder.call_te(
        lambda x, w: convolution(x, w, shape, INTEGER_CONVOLUTION, "int32"),
        data,
        relax.const(np.ascontiguousarray(array.transpose(2, 3, 1, 0)), "int8"),
        primfunc_name_hint=f"{INTEGER_KERNEL}conv2d",
        primfunc_attrs=_ATTRIBUTES,
    )


def legalize_integer_matmul(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a product of ``uint8`` with a constant ``int8`` matrix, or None for any other."""
    data, weight = call.args
    array = constant_value(weight)
    if array is None or array.ndim != 2 or data.ty.ndim < 2 or not _is_integer(call):
        return None
    shape = product_shape(data, array)
    return builder.call_te(
        lambda x, w: product(x, w, shape, INTEGER_CONVOLUTION, "int32"),
        data,
        weight,
        primfunc_name_hint=f"{INTEGER_KERNEL}matmul",
        primfunc_attrs=_ATTRIBUTES,
    )


def _is_integer(call: Call) -> bool:
    types = [str(value.ty.dtype.dtype) for value in (*call.args, call)]
    return types == ["uint8", "int8", "int32"]
