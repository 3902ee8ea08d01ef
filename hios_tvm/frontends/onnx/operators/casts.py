"""Conversions between element types."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper
from tvm import relax, tirx

from hios_tvm.frontends.onnx.inputs import ELEMENT_TYPES
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.precision import is_float, widened
from hios_tvm.frontends.tensors import array_of, constant, dtype_of, shape_of


def element_type(call: OperatorCall, number: int) -> str:
    """The name of an element type by its number in `TensorProto.DataType`."""
    if number not in ELEMENT_TYPES:
        known = number in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(number) if known else number
        raise call.unsupported(f"elements of type {name} cannot be compiled")
    return str(helper.tensor_dtype_to_np_dtype(number).name)


def converted(call: OperatorCall, x: relax.Expr, dtype: str) -> relax.Expr:
    """Convert elements as C does on x86, where the standard leaves results open.

    Integers keep their low bits. Floats that no integer of 32 bits (64 for int64, uint32 and
    uint64) can hold become the least one of these, whose low bits are kept.
    """
    source = dtype_of(x)
    if source == dtype or array_of(x) is not None:
        return call.cast(x, dtype)
    if dtype == "bool":
        return _truth(call, widened(call, x))
    if is_float(source) and not is_float(dtype):
        x = widened(call, x)
        convert = _unsigned_64 if dtype == "uint64" else _low_bits
        return call.elements(shape_of(x), lambda at, t: convert(t(*at), dtype), x)
    if dtype.endswith("float16") and source != "float32":
        x = call.cast(x, "float32")
    return call.cast(x, dtype)


def _truth(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """Whether elements are not zero; NaN is not zero, which TVM must be told."""
    result = relax.op.not_equal(x, constant(0, dtype_of(x)))
    if is_float(dtype_of(x)):
        result = relax.op.logical_or(result, relax.op.isnan(x))
    return call.emit(result)


def _low_bits(x: tirx.Expr, dtype: str) -> tirx.Expr:
    is_short = dtype == "int32" or np.iinfo(dtype).bits < 32
    wide = "int32" if is_short else "int64"
    limit = tirx.const(2.0**31 if is_short else 2.0**63, x.ty)
    inside = tirx.all(x >= -limit, x < limit)  # false for NaN
    safe = tirx.Select(inside, x, tirx.const(0, x.ty))
    least = tirx.const(np.iinfo(wide).min, wide)
    return tirx.Cast(dtype, tirx.Select(inside, tirx.Cast(wide, safe), least))


def _unsigned_64(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """In two parts, as there is no signed integer that holds all."""
    half = tirx.const(2.0**63, x.ty)
    low = _low_bits(x, "int64")
    high = _low_bits(x - half, "int64") ^ tirx.const(np.iinfo("int64").min, "int64")
    return tirx.Cast(dtype, tirx.Select(x >= half, high, low))


def cast(call: OperatorCall) -> Value:
    call.attributes.ignore("saturate", "round_mode")  # they concern floats of 8 bits
    if call.version < 6:
        name = call.attributes.text("to")
        if name not in set(TensorProto.DataType.keys()):
            raise ValueError(f"to is {name!r}, which is no element type")
        number = TensorProto.DataType.Value(name)
    else:
        number = call.attributes.integer("to")
    return converted(call, call.tensor(0), element_type(call, number))


def cast_like(call: OperatorCall) -> Value:
    call.attributes.ignore("saturate", "round_mode")
    return converted(call, call.tensor(0), dtype_of(call.tensor(1)))


def bit_cast(call: OperatorCall) -> Value:
    """The same bits as elements of another type."""
    x, dtype = call.tensor(0), element_type(call, call.attributes.integer("to"))
    source = dtype_of(x)
    if source == dtype:
        return x
    if "bool" in (source, dtype):  # TVM computes with bools of one bit
        return call.cast(call.cast(x, "uint8"), dtype)
    return call.elements(shape_of(x), lambda at, t: tirx.reinterpret(dtype, t(*at)), x)


OPERATORS: Mapping[str, Converter] = {
    "BitCast": bit_cast,
    "Cast": cast,
    "CastLike": cast_like,
}
