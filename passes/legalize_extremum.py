"""Legalization of maxima and minima that begin at infinity.

TVM begins at the largest finite number: the maximum of minus infinities would be finite, and so
would that of no numbers.
"""

import math

from tvm import relax, te, tirx
from tvm.ir import Call

from hios_tvm.passes.dataflow import operator_name

MAXIMUM = te.comm_reducer(
    lambda a, b: tirx.max(a, b), lambda dtype: tirx.const(-math.inf, dtype), name="max"
)
MINIMUM = te.comm_reducer(
    lambda a, b: tirx.min(a, b), lambda dtype: tirx.const(math.inf, dtype), name="min"
)


def legalize_extremum(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a maximum or minimum of floats along axes, or None for other types."""
    (data,) = call.args
    if str(data.ty.dtype.dtype) not in ("float16", "float32", "float64"):
        return None
    is_max = operator_name(call) == "relax.max"
    shape = [int(extent) for extent in data.ty.shape]
    axes = range(len(shape)) if call.attrs.axis is None else call.attrs.axis
    reduced = {int(axis) % len(shape) for axis in axes} if shape else set()
    keep = bool(call.attrs.keepdims)

    def extremum(x: te.Tensor) -> te.Tensor:
        return _extremum(x, shape, reduced, is_max=is_max, keep=keep)

    return builder.call_te(extremum, data, primfunc_name_hint="max" if is_max else "min")


def _extremum(
    data: te.Tensor, shape: list[int], reduced: set[int], *, is_max: bool, keep: bool
) -> te.Tensor:
    combine = MAXIMUM if is_max else MINIMUM
    along = {axis: te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in sorted(reduced)}
    if not along:
        return te.compute(shape, lambda *at: data(*at), name="extremum")

    def element(*at: tirx.Var) -> tirx.Expr:
        rest = iter(at)
        index = []
        for axis in range(len(shape)):
            if axis in along:
                index.append(along[axis])
                if keep:
                    next(rest)
            else:
                index.append(next(rest))
        return combine(data(*index), axis=list(along.values()))

    extents = [1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced]
    return te.compute(extents, element, name="extremum")
