"""Normalizations."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.precision import in_single, widened
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of

EPSILON = 1e-5


def _epsilon(call: OperatorCall) -> float:
    return call.attributes.number("epsilon", EPSILON)


def moments(
    call: OperatorCall, x: relax.Expr, axes: Sequence[int]
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Mean along axes, which stay with extent 1, deviations from it, and their variance.

    In two passes: the difference of the mean square and the squared mean cancels.
    """
    mean = call.emit(relax.op.mean(x, list(axes), True))
    deviation = call.emit(relax.op.subtract(x, mean))
    squares = call.emit(relax.op.multiply(deviation, deviation))
    return mean, deviation, call.emit(relax.op.mean(squares, list(axes), True))


def inverse_root(call: OperatorCall, square: relax.Expr, epsilon: float) -> relax.Expr:
    """``1 / sqrt(square + epsilon)``."""
    shifted = relax.op.add(square, constant(epsilon, dtype_of(square)))
    return call.emit(relax.op.divide(constant(1, dtype_of(square)), relax.op.sqrt(shifted)))


def _normalized(call: OperatorCall, x: relax.Expr, axes: Sequence[int]) -> relax.Expr:
    _, deviation, variance = moments(call, x, axes)
    return call.emit(relax.op.multiply(deviation, inverse_root(call, variance, _epsilon(call))))


def _scaled(
    call: OperatorCall, x: relax.Expr, scale: relax.Expr, shift: relax.Expr | None
) -> relax.Expr:
    result = call.emit(relax.op.multiply(x, call.cast(scale, dtype_of(x))))
    if shift is None:
        return result
    return call.emit(relax.op.add(result, call.cast(shift, dtype_of(x))))


# --- With statistics that the model holds ---


def batch_normalization(call: OperatorCall) -> Value:
    _refuse_training(call)
    call.attributes.ignore("momentum")
    epsilon = _epsilon(call)
    x = call.tensor(0)
    if call.version < 9 and not call.attributes.flag("spatial", True):
        return _normalized_per_element(call, epsilon)
    wide = widened(call, x)
    parameters = [call.cast(call.tensor(i), dtype_of(wide)) for i in range(1, 5)]
    rank = len(shape_of(x))
    channels = shape_of(x)[1] if rank > 1 else 1
    if any(shape_of(parameter) != (channels,) for parameter in parameters):
        raise ValueError(f"its scale, bias, mean and variance must have {channels} elements")
    if rank == 1:
        wide = call.reshape(wide, [shape_of(x)[0], 1])
    result = call.emit(
        relax.op.nn.batch_norm(wide, *parameters, axis=1, epsilon=epsilon, training=False)
    )
    normalized = call.emit(relax.TupleGetItem(result, 0))
    return call.cast(call.reshape(normalized, shape_of(x)), dtype_of(x))


def _normalized_per_element(call: OperatorCall, epsilon: float) -> relax.Expr:
    """Old models may have statistics for each element of an image."""
    x = widened(call, call.tensor(0))
    scale, shift, mean, variance = (widened(call, call.tensor(i)) for i in range(1, 5))
    centered = call.emit(relax.op.subtract(x, mean))
    normalized = call.emit(relax.op.multiply(centered, inverse_root(call, variance, epsilon)))
    return call.cast(_scaled(call, normalized, scale, shift), dtype_of(call.tensor(0)))


def _refuse_training(call: OperatorCall) -> None:
    """Training computes statistics; up to opset 13 its outputs say that it does."""
    is_training = call.attributes.flag("training_mode")
    if call.version < 7:
        is_training = is_training or not call.attributes.flag("is_test")
    if is_training and (call.version >= 14 or any(call.is_used[1:])):
        raise call.unsupported(
            "it is in training mode (training_mode, is_test); export the model for inference"
        )
    if any(call.is_used[1:]):
        raise call.unsupported("it computes statistics; export the model for inference")


# --- With statistics of the data ---


def instance_normalization(call: OperatorCall) -> Value:
    x = call.tensor(0)
    rank, channels = len(shape_of(x)), shape_of(x)[1]
    scale, shift = (_per_channel(call, call.tensor(i), rank, channels) for i in (1, 2))
    wide = widened(call, x)
    normalized = _normalized(call, wide, range(2, rank))
    return call.cast(_scaled(call, normalized, scale, shift), dtype_of(x))


def _per_channel(call: OperatorCall, vector: relax.Expr, rank: int, channels: int) -> relax.Expr:
    if shape_of(vector) != (channels,):
        raise ValueError(f"its scale and bias must have {channels} elements")
    return call.reshape(vector, [channels, *[1] * (rank - 2)])


def group_normalization(call: OperatorCall) -> Value:
    """Scale and bias are those of groups in opset 18, and of channels since 21."""
    x = call.tensor(0)
    groups, shape = call.attributes.integer("num_groups"), shape_of(x)
    channels = shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels are not divisible into {groups} groups")
    call.attributes.integer("stash_type", TensorProto.FLOAT)
    wide = call.reshape(widened(call, x), [shape[0], groups, channels // groups, *shape[2:]])
    rank = len(shape_of(wide))
    normalized = _normalized(call, wide, range(2, rank))
    count = groups if call.version < 21 else channels
    scale, shift = (_per_channel(call, call.tensor(i), rank, count) for i in (1, 2))
    if call.version < 21:
        return call.cast(call.reshape(_scaled(call, normalized, scale, shift), shape), dtype_of(x))
    normalized = call.reshape(normalized, shape)
    scale, shift = (_per_channel(call, call.tensor(i), len(shape), channels) for i in (1, 2))
    return call.cast(_scaled(call, normalized, scale, shift), dtype_of(x))


def layer_normalization(call: OperatorCall) -> list[Value]:
    """The normalized tensor, the mean, and the inverse of the deviation."""
    x, scale, shift = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    shape, dtype = shape_of(x), dtype_of(x)
    axis = call.axis(len(shape), -1)
    axes, epsilon = list(range(axis, len(shape))), _epsilon(call)
    wide = call.cast(x, _stash_type(call))
    if not any(call.is_used[1:]) and shape_of(scale) == shape[axis:]:
        neutral = constant_of(np.zeros(shape[axis:], dtype_of(wide)))
        center = neutral if shift is None else call.cast(shift, dtype_of(wide))
        if shape_of(center) == shape[axis:]:
            gamma = call.cast(scale, dtype_of(wide))
            result = relax.op.nn.layer_norm(wide, gamma, center, axes=axes, epsilon=epsilon)
            return [call.cast(call.emit(result), dtype)]
    mean, deviation, variance = moments(call, wide, axes)
    inverse = inverse_root(call, variance, epsilon)
    normalized = call.emit(relax.op.multiply(deviation, inverse))
    result = call.cast(_scaled(call, normalized, scale, shift), dtype)
    return [result, mean, inverse][: call.num_outputs]


def _stash_type(call: OperatorCall) -> str:
    """The type of the statistics: never less than single precision."""
    stash = call.attributes.integer("stash_type", TensorProto.FLOAT)
    known = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
    if stash in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        raise call.unsupported("its stash_type is below single precision; use 1 (FLOAT)")
    if stash not in known:
        raise ValueError(f"stash_type {stash} is no type of floats")
    return known[stash]


def rms_normalization(call: OperatorCall) -> Value:
    x, scale = call.tensor(0), call.tensor(1)
    rank = len(shape_of(x))
    axes = list(range(call.axis(rank, -1), rank))
    wide = call.cast(x, _stash_type(call))
    squares = call.emit(relax.op.multiply(wide, wide))
    square = call.emit(relax.op.mean(squares, axes, True))
    normalized = call.emit(relax.op.multiply(wide, inverse_root(call, square, _epsilon(call))))
    return call.cast(_scaled(call, normalized, scale, None), dtype_of(scale))


def mean_variance_normalization(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    rank = len(shape_of(x))
    axes = sorted({axis % rank for axis in call.attributes.integers("axes", (0, 2, 3))})
    _, deviation, variance = moments(call, x, axes)
    # As the standard's text has it, and not below the root
    bound = relax.op.add(relax.op.sqrt(variance), constant(1e-9, dtype_of(x)))
    return call.emit(relax.op.divide(deviation, bound))


def lp_normalization(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """Vectors along an axis, divided by their 1- or 2-norm; the standard has 0 / 0 as 0."""
    axis = [call.axis(len(shape_of(x)), -1)]
    order = call.attributes.integer("p", 2)
    if order not in (1, 2):
        raise ValueError(f"p is {order}; it can be 1 or 2")
    if order == 1:
        norm = call.emit(relax.op.sum(relax.op.abs(x), axis, True))
    else:
        norm = call.emit(relax.op.sqrt(relax.op.sum(relax.op.multiply(x, x), axis, True)))
    zero, one = constant(0, dtype_of(x)), constant(1, dtype_of(x))
    return relax.op.divide(x, relax.op.where(relax.op.equal(norm, zero), one, norm))


def local_response_normalization(call: OperatorCall, x: relax.Expr) -> relax.Expr:
    """Each element by the squares of its neighbours in other channels."""
    attributes, dtype = call.attributes, dtype_of(x)
    size, beta = attributes.integer("size"), attributes.number("beta", 0.75)
    squares = call.compute(lambda t: _square_sums(t, size), x)
    factor = constant(attributes.number("alpha", 1e-4) / size, dtype)
    base = call.emit(
        relax.op.add(
            constant(attributes.number("bias", 1.0), dtype), relax.op.multiply(factor, squares)
        )
    )
    if beta == 0.75:  # roots are much cheaper than powers
        root = call.emit(relax.op.sqrt(base))
        return relax.op.divide(x, relax.op.multiply(root, relax.op.sqrt(root)))
    return relax.op.divide(x, relax.op.power(base, constant(beta, dtype)))


def _square_sums(x: te.Tensor, size: int) -> te.Tensor:
    """Sums over windows of `size` channels; one of even size reaches further up than down."""
    channels, zero = int(x.shape[1]), tirx.const(0, x.dtype)
    # What a window reaches beyond the channels is zero
    below, above = (min(reach, channels - 1) for reach in ((size - 1) // 2, size // 2))
    k = te.reduce_axis((0, below + 1 + above), "k")

    def element(*at: tirx.Var) -> tirx.Expr:
        image, channel, *position = at
        other = channel + k - below
        value = x(image, other, *position)
        inside = tirx.all(other >= 0, other < channels)
        return te.sum(tirx.if_then_else(inside, value * value, zero), axis=[k])

    return te.compute(x.shape, element, name="square_sums")


OPERATORS: Mapping[str, Converter] = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": in_single(local_response_normalization),
    "LayerNormalization": layer_normalization,
    "LpNormalization": in_single(lp_normalization),
    "MeanVarianceNormalization": in_single(mean_variance_normalization),
    "RMSNormalization": rms_normalization,
}
