"""A pass that chooses how convolutions and products of quantized tensors are computed.

Frontends and `QuantizedOperators` write them with ``int32`` operands, whose zero points are
subtracted already::

    x = astype(image, int32) - 3                  # of uint8 or int8
    y = conv2d(x, weight, padding=1)              # int32; a constant weight

Where weights fit into 8 bits, CPUs have kernels of ``uint8`` with ``int8``. The zero point is then
subtracted from the sums, where it is a number for each output channel, and padding is explicit,
with the zero point::

    x = pad(image, 1, 3)                          # input channels become a multiple of 4, too
    y = conv2d(x, int8(weight))                   # int32
    y = y - 3 * sums(weight)

Everything else is computed in single precision, which is exact as long as no sum exceeds 2**24: in
as many parts as that takes, or with integers where that takes too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

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

_CONVOLUTION, _PRODUCT = "relax.nn.conv2d", "relax.matmul"

_MOST_EXACT = 2**24
"""Whole numbers up to this one are exact in single precision."""

_MOST_PARTS = 8
"""Of a product in single precision; more take longer than one with integers."""

_STEP = 4
"""Input channels that a CPU multiplies at a time; kernels have a multiple of them."""


@tvm.transform.module_pass(opt_level=0, name="IntegerProducts")
class IntegerProducts:
    """Choose a form for each convolution and product of ``int32`` operands.

    Parameters
    ----------
    for_cpus : bool
        Whether there are kernels of ``uint8`` with ``int8``.
    """

    def __init__(self, *, for_cpus: bool) -> None:
        self.for_cpus = for_cpus

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        if not any(_is_product(binding.value) for binding in bindings(mod["main"])):
            return mod

        def rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            if operator_name(value) == "relax.add":
                return _with_one_constant(rewriter, value)
            if not _is_product(value):
                return value
            steps = _steps_of(rewriter, value.args[0])
            weight = constant_value(value.args[1])
            if self.for_cpus and steps is not None and weight is not None:
                is_convolution = operator_name(value) == _CONVOLUTION
                form = _convolution if is_convolution else _product
                chosen = form(rewriter, value, steps, weight)
                if chosen is not None:
                    return chosen
            return _single_precision(rewriter, value)

        return rewrite_main(mod, rewrite)


def _is_product(value: relax.Expr) -> bool:
    """Whether `value` is a convolution of channels-first images, or a product, of ``int32``."""
    name = operator_name(value)
    if name not in (_CONVOLUTION, _PRODUCT) or _dtype(value.args[0]) != "int32":
        return False
    if name == _PRODUCT:
        return True
    attrs = value.attrs
    layouts = str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout)
    return layouts == ("NCHW", "OIHW", "NCHW")


@dataclass(frozen=True)
class Steps:
    """A tensor of 8 bits and its zero point: a number of ``int32``, which may be computed."""

    tensor: relax.Expr
    zero: relax.Expr

    @property
    def known_zero(self) -> int | None:
        """The zero point, where it is constant."""
        array = constant_value(self.zero)
        return None if array is None else int(array)


def _steps_of(rewriter: Rewriter, operand: relax.Expr) -> Steps | None:
    """Return what ``astype(tensor, int32) - zero`` is computed of, as ``uint8``."""
    zero: relax.Expr = relax.const(0, "int32")
    difference = rewriter.producer(operand, ("relax.subtract",))
    if difference is not None:
        operand, zero = difference.args
        if prod(_shape(zero)) != 1:
            return None
        if zero.ty.ndim:
            zero = rewriter.emit(relax.op.reshape(zero, []))
    cast = rewriter.producer(operand, ("relax.astype",))
    if cast is None or _dtype(cast.args[0]) not in ("uint8", "int8"):
        return None
    (tensor,) = cast.args
    if _dtype(tensor) == "uint8":
        return Steps(tensor, zero)
    unsigned = unsigned_source(rewriter, tensor)
    if unsigned is None:
        shifted = rewriter.emit(relax.op.add(operand, relax.const(128, "int32")))
        unsigned = rewriter.emit(relax.op.astype(shifted, "uint8"))
    known = constant_value(zero)
    if known is not None:
        return Steps(unsigned, relax.const(int(known) + 128, "int32"))
    return Steps(unsigned, rewriter.emit(relax.op.add(zero, relax.const(128, "int32"))))


def signed(rewriter: Rewriter, unsigned: relax.Expr) -> relax.Expr:
    """Return ``int8(unsigned - 128)``, which `unsigned_source` reads back."""
    wide = rewriter.emit(relax.op.astype(unsigned, "int32"))
    shifted = rewriter.emit(relax.op.subtract(wide, relax.const(128, "int32")))
    return relax.op.astype(shifted, "int8")


def unsigned_source(rewriter: Rewriter, tensor: relax.Expr) -> relax.Expr | None:
    """Return what `signed` made `tensor` of, or None if it did not."""
    narrow = rewriter.producer(tensor, ("relax.astype",))
    if narrow is None or _dtype(tensor) != "int8":
        return None
    shifted = rewriter.producer(narrow.args[0], ("relax.subtract",))
    offset = None if shifted is None else constant_value(shifted.args[1])
    if shifted is None or offset is None or offset.ndim or offset != 128:
        return None
    wide = rewriter.producer(shifted.args[0], ("relax.astype",))
    return wide.args[0] if wide is not None and _dtype(wide.args[0]) == "uint8" else None


# --- Kernels of 8 bits ---


def _convolution(
    rewriter: Rewriter, call: Call, steps: Steps, weight: np.ndarray
) -> relax.Expr | None:
    attrs = call.attrs
    groups, inputs = int(attrs.groups), weight.shape[1]
    if groups == weight.shape[0] and inputs == 1:
        return _depthwise(rewriter, call, steps, weight)
    if not _fits(weight) or (groups > 1 and inputs % _STEP):
        return None
    padding = list(map(int, attrs.padding))
    if any(padding) and steps.known_zero is None:
        return None
    missing = -inputs % _STEP
    image, padding = _padded(rewriter, steps, padding, missing)
    packed = np.pad(weight, [(0, 0), (0, missing), (0, 0), (0, 0)]).astype(np.int8)
    sums = relax.op.nn.conv2d(
        image,
        relax.const(packed, "int8"),
        strides=attrs.strides,
        padding=padding,
        dilation=attrs.dilation,
        groups=groups,
        out_dtype="int32",
    )
    totals = weight.astype(np.int64).sum((1, 2, 3)).reshape(1, -1, 1, 1)
    return _without_zero(rewriter, sums, steps, totals)


def _depthwise(
    rewriter: Rewriter, call: Call, steps: Steps, weight: np.ndarray
) -> relax.Expr | None:
    """Return a depthwise convolution in single precision, which reads ``uint8``."""
    padding = list(map(int, call.attrs.padding))
    if np.abs(weight).sum((1, 2, 3)).max() * 255 > _MOST_EXACT:
        return None
    if any(padding) and steps.known_zero is None:
        return None
    image, padding = _padded(rewriter, steps, padding, 0)
    attrs = call.attrs
    floats = relax.op.nn.conv2d(
        rewriter.emit(relax.op.astype(image, "float32")),
        relax.const(weight.astype(np.float32)),
        strides=attrs.strides,
        padding=padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
    )
    sums = relax.op.astype(rewriter.emit(floats), "int32")
    totals = weight.astype(np.int64).sum((1, 2, 3)).reshape(1, -1, 1, 1)
    return _without_zero(rewriter, sums, steps, totals)


def _padded(
    rewriter: Rewriter, steps: Steps, padding: Sequence[int], channels: int
) -> tuple[relax.Expr, list[int]]:
    """Return the image with the padding that a kernel has not, and the padding that it has."""
    zero = steps.known_zero
    if not channels and (not any(padding) or zero == 0):
        return steps.tensor, list(padding)
    top, left, bottom, right = padding
    widths = [0, 0, 0, channels, top, bottom, left, right]
    image = rewriter.emit(relax.op.nn.pad(steps.tensor, widths, "constant", zero or 0))
    return image, [0, 0, 0, 0]


def _product(rewriter: Rewriter, call: Call, steps: Steps, weight: np.ndarray) -> relax.Expr | None:
    if weight.ndim != 2 or steps.tensor.ty.ndim < 2 or not _fits(weight):
        return None
    missing = -weight.shape[0] % _STEP
    rows = steps.tensor
    if missing:
        widths = [0] * (2 * rows.ty.ndim - 1) + [missing]
        rows = rewriter.emit(relax.op.nn.pad(rows, widths, "constant", 0))
    packed = np.pad(weight, [(0, missing), (0, 0)]).astype(np.int8)
    sums = relax.op.matmul(rows, relax.const(packed, "int8"), out_dtype="int32")
    return _without_zero(rewriter, sums, steps, weight.astype(np.int64).sum(0))


def _fits(weight: np.ndarray) -> bool:
    """Whether weights have 8 bits, and no sum overflows."""
    if weight.min(initial=0) < -128 or weight.max(initial=0) > 127:
        return False
    return int(prod(weight.shape) // weight.shape[0]) * 255 * 128 < 2**31


def _without_zero(
    rewriter: Rewriter, sums: relax.Expr, steps: Steps, totals: np.ndarray
) -> relax.Expr:
    """Return `sums` less the zero point times the `totals` of the weights."""
    known = steps.known_zero
    if known == 0:
        return sums
    sums = rewriter.emit(sums)
    if known is not None:
        return relax.op.add(sums, relax.const((-known * totals).astype(np.int32)))
    offset = relax.op.multiply(relax.const(totals.astype(np.int32)), steps.zero)
    return relax.op.subtract(sums, rewriter.emit(offset))


def _with_one_constant(rewriter: Rewriter, call: Call) -> relax.Expr:
    """Return ``(sums + constant) + constant`` of ``int32`` with one constant."""
    constant = constant_value(call.args[1])
    inner = rewriter.producer(call.args[0], ("relax.add",))
    other = None if inner is None else constant_value(inner.args[1])
    if constant is None or inner is None or other is None or _dtype(call) != "int32":
        return call
    both = other.astype(np.int64) + constant
    if np.abs(both).max(initial=0) >= 2**31 or list(inner.ty.shape) != list(call.ty.shape):
        return call
    return relax.op.add(inner.args[0], relax.const(both.astype(np.int32)))


# --- Single precision ---


def _single_precision(rewriter: Rewriter, call: Call) -> relax.Expr:
    """Return the product in exact parts of single precision, or `call` where those are too many."""
    left, right = call.args
    is_convolution = operator_name(call) == _CONVOLUTION
    axis = -2 if not is_convolution and right.ty.ndim > 1 else (1 if is_convolution else -1)
    parts = _exact_parts(rewriter, call, axis)
    if parts is None:
        return call
    total = None
    for part in parts if len(parts) > 1 else [None]:
        operands = [
            _floats(rewriter, left, 1 if is_convolution else -1, part),
            _floats(rewriter, right, axis, part),
        ]
        floats = rewriter.emit(_in_floats(call, operands))
        whole = relax.op.astype(floats, "int32")
        total = whole if total is None else relax.op.add(rewriter.emit(total), rewriter.emit(whole))
    assert total is not None
    return total


def _in_floats(call: Call, operands: Sequence[relax.Expr]) -> relax.Expr:
    attrs = call.attrs
    if operator_name(call) == _PRODUCT:
        return relax.op.matmul(*operands)
    return relax.op.nn.conv2d(
        *operands,
        strides=attrs.strides,
        padding=attrs.padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
    )


def _floats(
    rewriter: Rewriter, operand: relax.Expr, axis: int, part: tuple[int, int] | None
) -> relax.Expr:
    """Return an operand in single precision; of an axis, all or a part."""
    array = constant_value(operand)
    if array is not None:
        taken = array if part is None else np.take(array, range(*part), axis)
        return relax.const(np.ascontiguousarray(taken.astype(np.float32)))
    floats = rewriter.emit(relax.op.astype(operand, "float32"))
    if part is None:
        return floats
    begin, end = part
    axis %= operand.ty.ndim
    return rewriter.emit(relax.op.strided_slice(floats, [axis], [begin], [end]))


def _exact_parts(rewriter: Rewriter, call: Call, axis: int) -> list[tuple[int, int]] | None:
    """Divide the axis of a product so that the sums of each part are exact in single precision.

    None where that takes too many parts. Of a grouped convolution, the channels of a part are not
    those of a group.
    """
    left, right = call.args
    sums = prod(_shape(right)[2:]) if operator_name(call) == _CONVOLUTION else 1
    length = _shape(right)[axis]
    array = constant_value(right)
    if array is None:
        cost = np.full((length, 1), _magnitude(rewriter, right) * sums, np.float64)
    else:
        rows = np.moveaxis(np.abs(array.astype(np.float64)), axis, 0).reshape(length, -1, sums)
        cost = rows.sum(2)  # of a convolution, the positions of a window are in one sum
    parts, begin, total = [], 0, np.zeros(cost.shape[1])
    for i, row in enumerate(cost * _magnitude(rewriter, left)):
        if (total + row).max(initial=0) > _MOST_EXACT:
            parts.append((begin, i))
            begin, total = i, np.zeros_like(total)
            if row.max(initial=0) > _MOST_EXACT or len(parts) >= _MOST_PARTS:
                return None
        total = total + row
    if parts and int(getattr(call.attrs, "groups", 1)) > 1:
        return None
    return [*parts, (begin, length)]


def _magnitude(rewriter: Rewriter, operand: relax.Expr) -> float:
    """Return the largest magnitude that an element of an operand may have."""
    array = constant_value(operand)
    if array is not None:
        return float(np.abs(array.astype(np.float64)).max(initial=1))
    zero = np.zeros(1)
    difference = rewriter.producer(operand, ("relax.subtract",))
    if difference is not None:
        operand, point = difference.args
        known = constant_value(point)
        zero = np.array([-(2.0**15), 2.0**16]) if known is None else known.astype(np.float64)
        if known is None and (narrow := _narrow_dtype(rewriter, point)):
            zero = np.array([np.iinfo(narrow).min, np.iinfo(narrow).max], np.float64)
    narrow = _narrow_dtype(rewriter, operand)
    if narrow is None:
        return 2.0**31
    limits = np.iinfo(narrow)
    return float(max(limits.max - zero.min(initial=0), zero.max(initial=0) - limits.min))


def _narrow_dtype(rewriter: Rewriter, operand: relax.Expr) -> str | None:
    """Return the integer type of 8 or 16 bits that an operand is converted from."""
    rearranged = ("relax.reshape", "relax.permute_dims")
    while (moved := rewriter.producer(operand, rearranged)) is not None:
        operand = moved.args[0]
    cast = rewriter.producer(operand, ("relax.astype",))
    dtype = "" if cast is None else _dtype(cast.args[0])
    return dtype if dtype in ("int8", "uint8", "int16", "uint16") else None


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)


def _dtype(value: relax.Expr) -> str:
    return str(value.ty.dtype.dtype) if isinstance(value.ty, relax.TensorType) else ""
