"""Convolutions, their transposes and matrix products."""

from collections.abc import Callable

from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.operators.layouts import layout_attribute, to_layout
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import dtype_of, shape_of

SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def convolution(rank: int) -> Converter:
    """`nn.conv1d`, `nn.conv2d` and `nn.conv3d`."""
    return lambda call: convolve(call, rank, call.tensor(0), call.tensor(1))


def convolve(
    call: OperatorCall, rank: int, data: relax.Expr, weight: relax.Expr, dtype: str | None = None
) -> relax.Expr:
    """A convolution with the attributes of `call`; `dtype` is that of the sums."""
    spatial = SPATIAL[rank]
    attributes = call.attributes
    layout = layout_attribute(call, "data_layout", "NC" + spatial)
    target = layout if layout == f"N{spatial}C" else "NC" + spatial
    data = to_layout(call, data, layout, target)
    kernel_layout = layout_attribute(call, "kernel_layout", "OI" + spatial)
    weight = to_layout(call, weight, kernel_layout, "OI" + spatial)
    groups = attributes.integer("groups", 1)
    weight = _flat_depthwise(call, weight, shape_of(data)[target.index("C")], groups)
    target_kernel = "OI" + spatial if target[1] == "C" else spatial + "IO"
    result = call.emit(
        _CONVOLUTIONS[rank](
            data,
            to_layout(call, weight, "OI" + spatial, target_kernel),
            strides=sizes(call, "strides", rank, 1),
            padding=padding(call, rank),
            dilation=sizes(call, "dilation", rank, 1),
            groups=groups,
            data_layout=target,
            kernel_layout=target_kernel,
            out_dtype=dtype or attributes.dtype("out_dtype", dtype_of(data)),
        )
    )
    return to_layout(call, result, target, layout_attribute(call, "out_layout", layout))


def transposed_convolution(rank: int) -> Converter:
    """`nn.conv1d_transpose`, `nn.conv2d_transpose` and `nn.conv3d_transpose`."""
    return lambda call: convolve_transposed(call, rank, call.tensor(0), call.tensor(1))


def convolve_transposed(
    call: OperatorCall, rank: int, data: relax.Expr, weight: relax.Expr, dtype: str | None = None
) -> relax.Expr:
    """A transposed convolution; Relax lowers channels-first layouts only."""
    spatial = SPATIAL[rank]
    attributes = call.attributes
    first = "NC" + spatial
    layout = layout_attribute(call, "data_layout", first)
    data = to_layout(call, data, layout, first)
    weight = _transposed_weight(call, weight, spatial, shape_of(data)[1])
    result = call.emit(
        _TRANSPOSED[rank](
            data,
            weight,
            strides=sizes(call, "strides", rank, 1),
            padding=padding(call, rank),
            output_padding=sizes(call, "output_padding", rank, 0, least=0),
            dilation=sizes(call, "dilation", rank, 1),
            groups=attributes.integer("groups", 1),
            data_layout=first,
            kernel_layout="IO" + spatial,
            out_dtype=dtype or attributes.dtype("out_dtype", dtype_of(data)),
        )
    )
    return to_layout(call, result, first, layout_attribute(call, "out_layout", layout))


def _transposed_weight(
    call: OperatorCall, weight: relax.Expr, spatial: str, in_channels: int
) -> relax.Expr:
    """The weight as IOHW.

    Relay before 0.9 called this same order OIHW, so the letters I and O are believed only where
    the number of input channels agrees.
    """
    layout = layout_attribute(call, "kernel_layout", "IO" + spatial)
    if layout == "OI" + spatial and shape_of(weight)[0] == in_channels:
        return weight
    weight = to_layout(call, weight, layout, "IO" + spatial)
    if shape_of(weight)[0] != in_channels and shape_of(weight)[1] == in_channels:
        return call.permute(weight, [1, 0, *range(2, len(shape_of(weight)))])
    return weight


def _flat_depthwise(
    call: OperatorCall, weight: relax.Expr, in_channels: int, groups: int
) -> relax.Expr:
    """Relay also stores a depthwise weight as (channels, multiplier, ...)."""
    out, per_group, *window = shape_of(weight)
    if groups > 1 and groups == out == in_channels and per_group > 1:
        return call.reshape(weight, [out * per_group, 1, *window])
    return weight


def deformable_convolution(call: OperatorCall) -> Value:
    data, offset, weight = call.tensor(0), call.tensor(1), call.tensor(2)
    attributes = call.attributes
    layouts = (
        layout_attribute(call, "data_layout", "NCHW"),
        layout_attribute(call, "kernel_layout", "OIHW"),
    )
    if layouts != ("NCHW", "OIHW"):
        raise call.unsupported(f"with the layouts {' and '.join(layouts)}")
    layout_attribute(call, "out_layout", "NCHW")
    return call.compute(
        topi.nn.deformable_conv2d_nchw,
        data,
        offset,
        weight,
        sizes(call, "strides", 2, 1),
        tuple(padding(call, 2)),
        sizes(call, "dilation", 2, 1),
        attributes.integer("deformable_groups", 1),
        attributes.integer("groups", 1),
        attributes.dtype("out_dtype", dtype_of(data)),
    )


# --- Attributes of convolutions and poolings ---


def sizes(
    call: OperatorCall, name: str, rank: int, default: int | None = None, least: int = 1
) -> list[int]:
    """An attribute with a number for each spatial axis, or one for all."""
    found = call.attributes.integers(name, None if default is None else [default] * rank)
    found = found * rank if len(found) == 1 else found
    if len(found) != rank or min(found) < least:
        raise call.error(f"{name} {found} does not fit {rank} dimensions")
    return found


def padding(call: OperatorCall, rank: int) -> list[int]:
    """Padding before each spatial axis, then behind each."""
    sizes = call.attributes.integers("padding", [0] * rank)
    if len(sizes) == 1:
        sizes = sizes * rank
    if len(sizes) == rank:
        sizes = sizes * 2
    if len(sizes) != 2 * rank:
        raise call.error(f"padding {sizes} does not fit {rank} dimensions")
    return sizes


# --- Matrix products ---


def dense(call: OperatorCall) -> Value:
    """`nn.dense`: the weight is (units, features)."""
    return matrix_product(call, call.tensor(0), call.tensor(1), transpose_b=True)


def packed_dense(call: OperatorCall) -> Value:
    """`nn.contrib_dense_pack`: the weight is in blocks."""
    layout = layout_attribute(call, "weight_layout", "NC")
    weight = to_layout(call, call.tensor(1), layout, "NC")
    return matrix_product(call, call.tensor(0), weight, transpose_b=True)


def matmul(call: OperatorCall) -> Value:
    flags = call.attributes.flag("transpose_a"), call.attributes.flag("transpose_b")
    return matrix_product(call, call.tensor(0), call.tensor(1), *flags)


def batch_matmul(call: OperatorCall) -> Value:
    """Relay before 0.8 had no flags and always transposed b: where only that fits, it is meant."""
    a, b = call.tensor(0), call.tensor(1)
    transpose_a = call.attributes.flag("transpose_a")
    transpose_b = call.attributes.flag("transpose_b")
    inner = shape_of(a)[-2 if transpose_a else -1]
    if "transpose_b" not in call.attributes and inner == shape_of(b)[-1] != shape_of(b)[-2]:
        transpose_b = True
    return matrix_product(call, a, b, transpose_a, transpose_b)


def matrix_product(
    call: OperatorCall,
    a: relax.Expr,
    b: relax.Expr,
    transpose_a: bool = False,
    transpose_b: bool = False,
    dtype: str | None = None,
) -> relax.Expr:
    a = _transposed(call, a) if transpose_a else a
    b = _transposed(call, b) if transpose_b else b
    out_dtype = dtype or call.attributes.dtype("out_dtype", dtype_of(a))
    return call.emit(relax.op.matmul(a, b, out_dtype=out_dtype))


def _transposed(call: OperatorCall, matrix: relax.Expr) -> relax.Expr:
    *batch, rows, columns = range(len(shape_of(matrix)))
    return call.permute(matrix, [*batch, columns, rows])


def bias_add(call: OperatorCall) -> Value:
    data = call.tensor(0)
    rank = len(shape_of(data))
    axis = call.axis(rank, default=1)
    return relax.op.add(data, call.along(call.tensor(1), axis, rank))


_CONVOLUTIONS: dict[int, Callable[..., relax.Expr]] = {
    1: relax.op.nn.conv1d,
    2: relax.op.nn.conv2d,
    3: relax.op.nn.conv3d,
}
_TRANSPOSED: dict[int, Callable[..., relax.Expr]] = {
    1: relax.op.nn.conv1d_transpose,
    2: relax.op.nn.conv2d_transpose,
    3: relax.op.nn.conv3d_transpose,
}
