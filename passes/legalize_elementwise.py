"""Legalizations of operators on single elements that TVM computes wrongly or refuses."""

import numpy as np
from tvm import relax, tirx, topi
from tvm.ir import Call

from hios_tvm.passes.dataflow import constant_value, operator_name

_BITS = {"float16": "int16", "float32": "int32", "float64": "int64"}
OPAQUE = 8
"""TVM's number of the pattern of kernels that nothing is fused with."""


def legalize_by_zero(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a product or quotient of floats and the number zero, or None where no operand is it.

    TVM makes 0 of ``x * 0`` and ``0 / x``, which are NaN for some `x`, and refuses ``x / 0``. It
    does not see a zero that is minus another, whose bits are those of an integer (it does not
    generate code for one whose bits are all 0).
    """
    dtype = _dtype(call)
    if dtype not in _BITS or not any(map(_is_zero, call.args)):
        return None
    lowest = int(np.iinfo(_BITS[dtype]).min)  # only the bit of the sign is set
    zero = tirx.reinterpret(dtype, tirx.const(lowest, _BITS[dtype])) * tirx.const(-1.0, dtype)
    combine = topi.multiply if operator_name(call) == "relax.multiply" else topi.divide
    left, right = (zero if _is_zero(operand) else operand for operand in call.args)
    return builder.call_te(combine, left, right)


def legalize_cast(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a conversion from or to bfloat16 as a kernel of its own, or None for other types.

    TVM repeats what it converts. Where that binds names, as exponentials do after `VectorMath`, it
    refuses the kernel or gives wrong numbers.
    """
    (data,) = call.args
    dtype = _dtype(call)
    if "bfloat16" not in (dtype, _dtype(data)):
        return None
    return builder.call_te(
        lambda x: topi.cast(x, dtype),
        data,
        primfunc_name_hint="cast",
        primfunc_attrs={"op_pattern": OPAQUE},
    )


def _is_zero(operand: relax.Expr) -> bool:
    array = constant_value(operand)
    return array is not None and array.ndim == 0 and not array.any()


def _dtype(value: relax.Expr) -> str:
    return str(value.ty.dtype.dtype)
