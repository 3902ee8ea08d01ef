"""Tensors made from a few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import helper
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of
from hios_tvm.schema.value_checks import ValidValues

MAX_CONSTANT_ELEMENTS = 1 << 24


def constant_node(call: OperatorCall) -> Value:
    """Constants of numbers are known at import and do not come here."""
    raise call.unsupported("its value holds text or is sparse; store numbers in a dense tensor")


def constant_of_shape(call: OperatorCall) -> Value:
    shape = call.integers(0, "the elements of its shape") or []
    if min(shape, default=0) < 0:
        raise ValueError(f"{shape} is not a shape")
    value = np.zeros(1, np.float32)
    if "value" in call.attributes:
        value = call.attributes.tensor("value")
    if value.size != 1:
        raise ValueError(f"its value has {value.size} elements, it must have one")
    scalar = value.reshape(())
    if math.prod(shape) <= MAX_CONSTANT_ELEMENTS:
        return constant_of(np.full(shape, scalar))
    return relax.op.full(shape, constant_of(scalar), scalar.dtype.name)


def eye_like(call: OperatorCall) -> Value:
    data = call.tensor(0)
    sizes = shape_of(data)
    if len(sizes) != 2:
        raise ValueError(f"its input has {len(sizes)} dimensions, it must be a matrix")
    dtype = dtype_of(data)
    if "dtype" in call.attributes:
        dtype = helper.tensor_dtype_to_np_dtype(call.attributes.integer("dtype")).name
    return constant(np.eye(*sizes, k=call.attributes.integer("k", 0)), dtype)


def range_(call: OperatorCall) -> Value:
    """Its length must be known, so that its elements are too."""
    call.attributes.integer("stash_type", 1)
    ends = "the bounds of its range"
    arrays = [call.constant(i, ends).reshape(-1) for i in range(3)]
    dtype = arrays[0].dtype
    start, limit, delta = (array[0].item() for array in arrays)
    count = math.ceil((limit - start) / delta) if delta else -1
    if delta == 0 or count > MAX_CONSTANT_ELEMENTS:
        raise ValueError(f"from {start} to {limit} by {delta} there are too many numbers")
    return constant(start + np.arange(max(0, count)) * delta, dtype.name)


def one_hot(call: OperatorCall) -> Value:
    """Negative indices count from the end; others outside give the off value.

    Version 9 has no indices that count from the end; ONNX Runtime and ONNX's reference count them.
    """
    indices, values = call.tensor(0), call.tensor(2)
    depth = int(call.constant(1, "the depth of its vectors").reshape(-1)[0])
    if depth < 0:
        raise ValueError(f"its depth is {depth}")
    sizes = list(shape_of(indices))
    axis = call.axis(len(sizes) + 1, default=-1)
    counts_back = not dtype_of(indices).startswith("u")
    if shape_of(values) != (2,):
        raise ValueError("its values must be a vector of the off and the on value")

    def element(position: tuple[tirx.Var, ...], indices: te.Tensor, values: te.Tensor) -> tirx.Expr:
        others = (*position[:axis], *position[axis + 1 :])
        index = indices(*others).astype("int64")
        is_hot = index == position[axis]
        if counts_back:
            is_hot = tirx.any(is_hot, index == position[axis] - depth)
        return tirx.Select(is_hot, values(1), values(0))

    shape = [*sizes[:axis], depth, *sizes[axis:]]
    limits = call.valid_values(ValidValues(0, "class", depth, depth - 1))
    return call.elements(shape, element, indices, values, primfunc_attrs=limits)


def trilu(call: OperatorCall) -> Value:
    """The upper or lower triangle of matrices; the other elements are zero."""
    data = call.tensor(0)
    if len(shape_of(data)) < 2:
        raise ValueError("its input must have at least two dimensions")
    is_upper = call.attributes.flag("upper", True)
    given = call.optional_tensor(1)
    diagonal = call.reshape(constant(0, "int64") if given is None else given, [])

    def element(at: tuple[tirx.Var, ...], data: te.Tensor, diagonal: te.Tensor) -> tirx.Expr:
        distance = at[-1].astype("int64") - at[-2].astype("int64")
        keep = distance >= diagonal() if is_upper else distance <= diagonal()
        return tirx.Select(keep, data(*at), tirx.const(0, data.dtype))

    return call.elements(shape_of(data), element, data, diagonal)


OPERATORS: Mapping[str, Converter] = {
    "Constant": constant_node,
    "ConstantOfShape": constant_of_shape,
    "EyeLike": eye_like,
    "OneHot": one_hot,
    "Range": range_,
    "Trilu": trilu,
}
