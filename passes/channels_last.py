"""A pass that lays images out channels-last (NHWC) between the borders of the network.

Each operator that is as fast or faster with channels last is rewritten as

    permute_dims(operator(permute_dims(x, NCHW to NHWC)), NHWC to NCHW)

where the transposition of a transposed image is that image, so that the two cancel wherever two
such operators follow each other. Transpositions remain at inputs, at outputs, and around operators
that this pass does not know; `MoveRearrangements` merges them with reshapes and with each other.
"""

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main

_TO_LAST = (0, 2, 3, 1)
_TO_FIRST = (0, 3, 1, 2)
_TRANSPOSE = "relax.permute_dims"


@tvm.transform.module_pass(opt_level=0, name="ChannelsLast")
class ChannelsLast:
    """Move images from NCHW to NHWC; weights of convolutions stay as they are."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    name = operator_name(value)
    if name in _CONVERTERS:
        converted = _CONVERTERS[name](rewriter, value)
        return value if converted is None else converted
    if name in ELEMENTWISE:
        converted = _elementwise(rewriter, value)
        return value if converted is None else converted
    return value


def _is_last(rewriter: Rewriter, value: relax.Expr) -> bool:
    """Whether the channels-last form of `value` exists already."""
    producer = rewriter.producer(value, (_TRANSPOSE,))
    return producer is not None and _axes(producer) == _TO_FIRST


def _last(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    """Return the channels-last form of an image."""
    producer = rewriter.producer(value, (_TRANSPOSE,))
    if producer is not None and _axes(producer) == _TO_FIRST:
        return producer.args[0]
    return rewriter.emit(relax.op.permute_dims(value, list(_TO_LAST)))


def _first(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    """Return the channels-first form of an operator that was built channels-last."""
    return relax.op.permute_dims(rewriter.emit(value), list(_TO_FIRST))


def _axes(transposition: Call) -> tuple[int, ...] | None:
    axes = transposition.attrs.axes
    return None if axes is None else tuple(int(axis) for axis in axes)


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)


def _is_image(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and value.ty.ndim == 4


def _convolution(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    attrs = call.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.out_layout) != "NCHW":
        return None
    data, weight = call.args
    return _first(
        rewriter,
        relax.op.nn.conv2d(
            _last(rewriter, data),
            weight,
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=attrs.groups,
            data_layout="NHWC",
            kernel_layout=attrs.kernel_layout,
            out_layout="NHWC",
            out_dtype=attrs.out_dtype,
        ),
    )


def _pool(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or str(attrs.out_layout) != "NCHW":
        return None
    pools = {
        "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
        "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
    }
    return _first(
        rewriter,
        pools[operator_name(call)](
            _last(rewriter, call.args[0]),
            pool_size=attrs.pool_size,
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            ceil_mode=attrs.ceil_mode,
            count_include_pad=attrs.count_include_pad,
            layout="NHWC",
            out_layout="NHWC",
        ),
    )


def _adaptive_pool(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or str(attrs.out_layout) != "NCHW":
        return None
    return _first(
        rewriter,
        relax.op.nn.adaptive_avg_pool2d(
            _last(rewriter, call.args[0]), attrs.output_size, layout="NHWC", out_layout="NHWC"
        ),
    )


def _concat(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    (operands,) = call.args
    fields = list(operands.fields) if isinstance(operands, relax.Tuple) else []
    if call.attrs.axis is None or not fields or not all(map(_is_image, fields)):
        return None
    if not any(_is_last(rewriter, field) for field in fields):
        return None
    axis = _TO_LAST.index(int(call.attrs.axis) % 4)
    return _first(rewriter, relax.op.concat([_last(rewriter, f) for f in fields], axis))


def _reduction(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Make means and maxima over whole images poolings; change the axes of other reductions."""
    data = call.args[0]
    if not _is_image(data) or not _is_last(rewriter, data) or call.attrs.axis is None:
        return None
    axes = [int(axis) % 4 for axis in call.attrs.axis]
    name = operator_name(call)
    last = _last(rewriter, data)
    pools = {"relax.mean": relax.op.nn.avg_pool2d, "relax.max": relax.op.nn.max_pool2d}
    if sorted(axes) == [2, 3] and name in pools:
        reduced = pools[name](last, pool_size=_shape(data)[2:], layout="NHWC", out_layout="NHWC")
        if call.attrs.keepdims:
            return _first(rewriter, reduced)
        return relax.op.squeeze(rewriter.emit(reduced), [1, 2])
    reduce = getattr(relax.op, name.removeprefix("relax."))
    moved = [_TO_LAST.index(axis) for axis in axes]
    if call.attrs.keepdims:
        return _first(rewriter, reduce(last, moved, keepdims=True))
    kept = [axis for axis in _TO_LAST if axis not in axes]
    return reduce(last, moved) if kept == sorted(kept) else None


def _softmax(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    data = call.args[0]
    if not _is_image(data) or not _is_last(rewriter, data):
        return None
    axis = _TO_LAST.index(int(call.attrs.axis) % 4)
    softmax = getattr(relax.op.nn, operator_name(call).removeprefix("relax.nn."))
    return _first(rewriter, softmax(_last(rewriter, data), axis))


def _pad(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    (data,) = call.args
    if not _is_image(data) or not _is_last(rewriter, data):
        return None
    widths = [int(width) for width in call.attrs.pad_width]
    moved = [width for axis in _TO_LAST for width in widths[2 * axis : 2 * axis + 2]]
    last = _last(rewriter, data)
    mode, fill = str(call.attrs.pad_mode), float(call.attrs.pad_value)
    return _first(rewriter, relax.op.nn.pad(last, moved, mode, fill))


def _slice(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    data = call.args[0]
    if not _is_image(data) or not _is_last(rewriter, data):
        return None
    axes, *bounds = ([int(item) for item in fields.fields] for fields in call.args[1:])
    moved = [_TO_LAST.index(axis % 4) for axis in axes]
    return _first(rewriter, relax.op.strided_slice(_last(rewriter, data), moved, *bounds))


def _elementwise(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    if not _is_image(call) or not any(_is_last(rewriter, arg) for arg in call.args):
        return None
    operands = [_operand(rewriter, arg) for arg in call.args]
    if any(operand is None for operand in operands):
        return None
    return _first(rewriter, Call(call.op, operands, call.attrs, call.ty_args))


def _operand(rewriter: Rewriter, value: relax.Expr) -> relax.Expr | None:
    """Return an operand of an element-wise operator as it broadcasts to channels-last images."""
    if not isinstance(value.ty, relax.TensorType):
        return None
    if value.ty.ndim == 0:
        return value
    array = constant_value(value)
    if array is not None and array.ndim <= 4:
        array = array.reshape((1,) * (4 - array.ndim) + array.shape)
        moved = np.ascontiguousarray(array.transpose(_TO_LAST))
        return relax.const(moved, moved.dtype.name)
    return _last(rewriter, value) if value.ty.ndim == 4 else None


_UNARY = (
    "abs acos acosh asin asinh astype atan atanh ceil cos cosh erf exp floor isfinite isinf isnan "
    "log negative nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.selu nn.silu round rsqrt sigmoid "
    "sign sin sinh sqrt square tan tanh clip"
)
_BINARY = (
    "add divide equal floor_divide greater greater_equal less less_equal logical_and logical_or "
    "logical_xor maximum minimum mod multiply not_equal power subtract where"
)
ELEMENTWISE = frozenset(f"relax.{name}" for name in f"{_UNARY} {_BINARY}".split())

_CONVERTERS: dict[str, Callable[[Rewriter, Call], relax.Expr | None]] = {
    "relax.nn.conv2d": _convolution,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.adaptive_avg_pool2d": _adaptive_pool,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.nn.pad": _pad,
    "relax.concat": _concat,
    "relax.mean": _reduction,
    "relax.sum": _reduction,
    "relax.max": _reduction,
    "relax.min": _reduction,
    "relax.strided_slice": _slice,
}
