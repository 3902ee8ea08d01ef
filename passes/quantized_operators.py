"""A pass that computes with quantized tensors as they are, where models describe real numbers.

Models dequantize a tensor before each operator, and quantize its result::

    y = quantize(relu(conv2d(dequantize(x, sx, zx), dequantize(w, sw, 0)) + bias), sy, zy)

becomes a convolution of integers, whose sums are scaled and rounded once, to even::

    sums = conv2d(int32(x) - zx, w) + round(bias / (sx * sw))              # int32
    y = uint8(clip(int32(round(sums * (sx * sw / sy))) + zy, zy, 255))     # relu is a bound

What only moves elements, or takes the largest, reads and writes quantized tensors. Averages are of
the integers. All quantized tensors become ``uint8``, but for inputs and outputs of the network:
kernels multiply ``uint8`` with ``int8`` weights. What has no form for integers stays an operator of
real numbers between a dequantization and a quantization, of which elementwise operators remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
from hios_tvm.passes.integer_products import signed, unsigned_source
from hios_tvm.passes.quantization import (
    DEQUANTIZE,
    LARGEST,
    MOVES,
    QUANTIZE,
    Scale,
    dtype_of,
    rounded,
    scaled,
    scaled_sums,
)


@tvm.transform.module_pass(opt_level=0, name="QuantizedOperators")
class QuantizedOperators:
    """Compute products, and what moves elements, with integers."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        names = {operator_name(binding.value) for binding in bindings(mod["main"])}
        return rewrite_main(mod, _rewrite) if DEQUANTIZE in names else mod


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    rule = _RULES.get(operator_name(value))
    result = None if rule is None else rule(rewriter, value)
    return value if result is None else result


def _quantized(rewriter: Rewriter, value: relax.Expr) -> tuple[relax.Expr, Scale] | None:
    """Return the tensor of 8 bits that `value` is dequantized from, by numbers for all of it."""
    call = rewriter.producer(value, (DEQUANTIZE,))
    if call is None or dtype_of(call.args[0]) not in ("uint8", "int8"):
        return None
    scale = Scale.of(call)
    return (call.args[0], scale) if scale is not None and scale.is_number else None


def _quantized_constant(rewriter: Rewriter, value: relax.Expr) -> tuple[np.ndarray, Scale] | None:
    call = rewriter.producer(value, (DEQUANTIZE,))
    if call is None:
        return None
    scale, array = Scale.of(call), constant_value(call.args[0])
    return None if scale is None or array is None else (array, scale)


def _dequantize(tensor: relax.Expr, scale: Scale) -> relax.Expr:
    dtype = dtype_of(tensor)
    numbers = relax.const(scale.scale), relax.const(scale.zero.astype(dtype))
    return relax.op.dequantize(tensor, *numbers, axis=-1 if scale.is_number else scale.axis)


# --- Signed tensors ---


def _dequantization(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Dequantize the unsigned tensor that a signed one was made of."""
    tensor, scale = call.args[0], Scale.of(call)
    source = unsigned_source(rewriter, tensor)
    if source is None or scale is None or not scale.is_number:
        return None
    return _dequantize(source, Scale(scale.scale, scale.zero + 128, scale.axis))


# --- Operators that move elements, or take the largest ---


def _moved(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Dequantize behind the operator."""
    if operator_name(call) == "relax.permute_dims":
        constant = _quantized_constant(rewriter, call.args[0])
        if constant is not None:
            return _permuted(call, *constant)
    found = _quantized(rewriter, call.args[0])
    if found is None or constant_value(found[0]) is not None:
        return None
    tensor, scale = found
    if operator_name(call) == LARGEST and dtype_of(tensor) != "uint8":
        return None
    moved = Call(call.op, [tensor, *call.args[1:]], call.attrs, call.ty_args)
    return _dequantize(rewriter.emit(rewriter.builder.normalize(moved)), scale)


def _permuted(call: Call, array: np.ndarray, scale: Scale) -> relax.Expr:
    order = call.attrs.axes
    axes = [int(axis) for axis in order] if order is not None else range(array.ndim)[::-1]
    moved = relax.const(np.ascontiguousarray(array.transpose(list(axes))), array.dtype.name)
    return _dequantize(moved, Scale(scale.scale, scale.zero, list(axes).index(scale.axis)))


def _concatenated(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Concatenate tensors that are quantized alike."""
    fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else []
    found = [_quantized(rewriter, field) for field in fields]
    parts = [part for part in found if part is not None]
    if not parts or len(parts) < len(found) or call.attrs.axis is None:
        return None
    scale, dtype = parts[0][1], dtype_of(parts[0][0])
    if not all(other.same_as(scale) and dtype_of(tensor) == dtype for tensor, other in parts):
        return None
    joined = relax.op.concat([tensor for tensor, _ in parts], call.attrs.axis)
    return _dequantize(rewriter.emit(joined), scale)


def _padded(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Pad with the zero point, where models pad with zeros."""
    found, attrs = _quantized(rewriter, call.args[0]), call.attrs
    if found is None or str(attrs.pad_mode) != "constant" or float(attrs.pad_value):
        return None
    tensor, scale = found
    padded = relax.op.nn.pad(tensor, attrs.pad_width, "constant", int(scale.zero))
    return _dequantize(rewriter.emit(padded), scale)


def _before_reshape(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Compute a function of a product before the product is reshaped, in the same kernel."""
    found = [_reshaped(rewriter, operand) for operand in call.args]
    place = next((i for i, part in enumerate(found) if part is not None), None)
    if place is None or (first := found[place]) is None:
        return None
    source, scale = first
    operands = []
    for i, operand in enumerate(call.args):
        if i == place:
            operands.append(rewriter.emit(_dequantize(source, scale)))
        elif not operand.ty.ndim:
            operands.append(operand)
        elif list(operand.ty.shape) == list(call.ty.shape):
            operands.append(_in_shape(rewriter, operand, source.ty.shape))
        else:
            return None
    result = rewriter.emit(Call(call.op, operands, call.attrs, call.ty_args))
    return relax.op.reshape(result, call.ty.shape)


def _reshaped(rewriter: Rewriter, value: relax.Expr) -> tuple[relax.Expr, Scale] | None:
    """Return the quantized tensor that was reshaped before it was dequantized for one reader."""
    found = _quantized(rewriter, value)
    reshape = None if found is None else rewriter.producer(found[0], ("relax.reshape",))
    if found is None or reshape is None or rewriter.uses(value) != 1:
        return None
    return reshape.args[0], found[1]


def _in_shape(rewriter: Rewriter, value: relax.Expr, shape: relax.Expr) -> relax.Expr:
    found = _quantized(rewriter, value)
    if found is None:
        return rewriter.emit(relax.op.reshape(value, shape))
    moved = rewriter.emit(relax.op.reshape(found[0], shape))
    return rewriter.emit(_dequantize(moved, found[1]))


def _without_nan(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Leave out what replaces NaN, which quantized tensors have not."""
    is_nan = rewriter.producer(call.args[0], ("relax.isnan",))
    if is_nan is None or _quantized(rewriter, is_nan.args[0]) is None:
        return None
    other = call.args[2]
    return other if list(other.ty.shape) == list(call.ty.shape) else None


# --- Averages ---


def _averaged(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Average integers, and scale the averages."""
    found = _quantized(rewriter, call.args[0])
    if found is None:
        return None
    tensor, scale = found
    counts_padding = getattr(call.attrs, "count_include_pad", False)
    if counts_padding and any(map(int, call.attrs.padding)) and scale.zero:
        return None
    floats = rewriter.emit(relax.op.astype(tensor, "float32"))
    average = Call(call.op, [floats, *call.args[1:]], call.attrs, call.ty_args)
    average = rewriter.emit(rewriter.builder.normalize(average))
    if scale.zero:
        zero = relax.const(float(scale.zero), "float32")
        average = rewriter.emit(relax.op.subtract(average, zero))
    return relax.op.multiply(average, relax.const(scale.scale))


# --- Products ---


def _convolution(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    attrs = call.attrs
    operands = _operands(rewriter, call, output_axis=0)
    if operands is None or str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        return None
    sums = relax.op.nn.conv2d(
        *operands.integers,
        strides=attrs.strides,
        padding=attrs.padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
        out_dtype="int32",
    )
    scale = operands.scale
    if scale.ndim:
        scale = scale.reshape(1, -1, 1, 1)
    return scaled(rewriter, sums, scale)


def _product(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    operands = _operands(rewriter, call, output_axis=1)
    if operands is None or call.args[1].ty.ndim != 2 or call.args[0].ty.ndim < 2:
        return None
    sums = relax.op.matmul(*operands.integers, out_dtype="int32")
    return scaled(rewriter, sums, operands.scale)


@dataclass(frozen=True)
class _Operands:
    """Operands of ``int32`` without zero points, and the scale of their products."""

    integers: tuple[relax.Expr, relax.Expr]
    scale: np.ndarray


def _operands(rewriter: Rewriter, call: Call, output_axis: int) -> _Operands | None:
    """Return the operands of a product with constant weights, both quantized."""
    data, weight = (
        _quantized(rewriter, call.args[0]),
        _quantized_constant(rewriter, call.args[1]),
    )
    if data is None or weight is None or constant_value(data[0]) is not None:
        return None
    (tensor, scale), (array, weights) = data, weight
    if not weights.is_number and weights.axis != output_axis:
        return None
    integers = rewriter.emit(relax.op.astype(tensor, "int32"))
    if scale.zero:
        zero = relax.const(int(scale.zero), "int32")
        integers = rewriter.emit(relax.op.subtract(integers, zero))
    exact = array.astype(np.int64) - weights.along(weights.zero, array.ndim)
    product = (scale.scale * weights.scale).astype(np.float32)
    return _Operands((integers, relax.const(exact.astype(np.int32))), product)


def _biased(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Add a bias that is a whole number of steps to the sums."""
    bias, found = constant_value(call.args[1]), scaled_sums(rewriter, call.args[0])
    if bias is None or found is None or bias.ndim > max(1, call.args[0].ty.ndim):
        return None
    sums, scale = found
    exact = bias.astype(np.float64) / scale
    steps = np.rint(exact)
    is_whole = np.abs(exact - steps) <= 1e-6 * np.abs(steps) + 1e-3
    if not np.all(is_whole) or np.abs(steps).max(initial=0) > 2**30:
        return None
    result = relax.op.add(sums, relax.const(steps.astype(np.int32)))
    return scaled(rewriter, result, scale)


def _sum(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Add a bias to sums of integers, or what a product is added to before it is reshaped."""
    biased = _biased(rewriter, call)
    return _before_reshape(rewriter, call) if biased is None else biased


# --- Quantizations ---


def _quantization(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Quantize to ``uint8``, what is scaled already, and before elements are moved."""
    scale, dtype = Scale.of(call), dtype_of(call)
    if scale is None or not scale.is_number or dtype not in ("uint8", "int8"):
        return None
    if dtype == "int8":
        scale = Scale(scale.scale, scale.zero + 128, scale.axis)
    unsigned = _as_unsigned(rewriter, call.args[0], scale)
    return signed(rewriter, rewriter.emit(unsigned)) if dtype == "int8" else unsigned


def _as_unsigned(rewriter: Rewriter, value: relax.Expr, scale: Scale) -> relax.Expr:
    """Return a tensor of floats as ``uint8``."""
    found = _quantized(rewriter, value)
    if found is not None and found[1].same_as(scale) and dtype_of(found[0]) == "uint8":
        return found[0]
    moved = rewriter.producer(value, MOVES)
    if moved is not None and rewriter.uses(value) == 1:
        source = rewriter.emit(_as_unsigned(rewriter, moved.args[0], scale))
        return Call(moved.op, [source, *moved.args[1:]], moved.attrs, moved.ty_args)
    concat = rewriter.producer(value, ("relax.concat",))
    if concat is not None and rewriter.uses(value) == 1 and concat.attrs.axis is not None:
        fields = concat.args[0].fields
        parts = [rewriter.emit(_as_unsigned(rewriter, field, scale)) for field in fields]
        return relax.op.concat(parts, concat.attrs.axis)
    return rounded(rewriter, value, scale)


_FUNCTIONS = tuple(
    f"relax.{name}"
    for name in ("erf", "nn.gelu", "nn.gelu_tanh", "nn.relu", "nn.silu", "sigmoid", "tanh")
)

_RULES: Mapping[str, Callable[[Rewriter, Call], relax.Expr | None]] = {
    **dict.fromkeys((*MOVES, LARGEST), _moved),
    **dict.fromkeys(_FUNCTIONS, _before_reshape),
    DEQUANTIZE: _dequantization,
    QUANTIZE: _quantization,
    "relax.add": _sum,
    "relax.concat": _concatenated,
    "relax.matmul": _product,
    "relax.mean": _averaged,
    "relax.nn.avg_pool2d": _averaged,
    "relax.nn.conv2d": _convolution,
    "relax.nn.pad": _padded,
    "relax.where": _without_nan,
}
