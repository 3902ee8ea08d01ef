"""Reductions, normalisation, softmax."""

from __future__ import annotations

import numpy as np

from random_networks.broadcasting import FLOAT_BINARY, binary
from random_networks.builder import Builder, Redraw, Tensor
from random_networks.elementwise import activation
from random_networks.menu import pattern

REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip

LEAST_DEVIATION = 1e-3
"""Of values that are normalized without a constant that keeps their deviation from zero."""


def reduced(b: Builder, operator: str, x: Tensor, axes: list[int]) -> Tensor:
    """Append a reduction that keeps its axes; they are an attribute or, later, an input."""
    if b.opset < (13 if operator == "ReduceSum" else 18):
        return b.add(operator, x, axes=axes)
    return b.add(operator, x, b.constant(axes, "int64"))


@pattern()
def both_broadcast(b: Builder) -> None:
    """Each of the two operands is smaller than the result."""
    x = b.pick(2, 3, 4)
    axis = b.integer(0, x.rank - 1)
    first = reduced(b, b.one_of("ReduceMax", "ReduceSum"), x, [axis])
    shape = tuple(n if i == axis else 1 for i, n in enumerate(x.shape))
    binary(b, b.one_of(*FLOAT_BINARY), first, b.operand(shape, x.dtype))


@pattern(weight=3)
def reduction(b: Builder) -> None:
    operator = b.one_of(*REDUCTIONS)
    x = b.pick(kind="fffi" if operator not in ("ReduceLogSum", "ReduceLogSumExp") else "f")
    if operator == "ReduceLogSum":
        x = b.add("Exp", x)
    if operator == "ReduceProd" and x.dtype.kind == "f":
        x = b.add("Sigmoid", x)
    axes = b.axes(x.rank) if b.chance(0.85) else None
    keepdims = b.one_of(0, 1, None)
    if b.opset < (13 if operator == "ReduceSum" else 18):
        b.add(operator, x, axes=axes, keepdims=keepdims)
        return
    noop = b.one_of(0, 1, None)
    given = [b.constant(axes, "int64")] if axes is not None else []
    if axes is None and b.chance(0.3):
        given = [b.constant([], "int64")]
    b.add(operator, x, *given, keepdims=keepdims, noop_with_empty_axes=noop)


@pattern()
def index_of_extreme(b: Builder) -> None:
    x = b.pick(kind="ffi")
    attributes = {"axis": b.axis(x.rank) if b.opset >= 11 else b.integer(0, x.rank - 1)}
    if b.opset >= 12 and b.chance(0.4):
        attributes["select_last_index"] = b.integer(0, 1)
    keepdims = b.one_of(0, 1, None)
    b.add(b.one_of("ArgMax", "ArgMin"), x, keepdims=keepdims, **attributes)


@pattern(weight=2)
def softmax(b: Builder) -> None:
    x = b.pick()
    operator = b.one_of("Softmax", "Softmax", "LogSoftmax", "Hardmax")
    axis = b.axis(x.rank) if b.opset >= 11 else b.integer(0, x.rank - 1)
    b.add(operator, x, axis=b.one_of(axis, axis, None))


def _vector(b: Builder, extent: int, x: Tensor) -> Tensor:
    return b.weight((extent,), x.dtype)


def _epsilon(b: Builder) -> float | None:
    value: float | None = b.one_of(None, 1e-3, 1e-5)
    return value


@pattern(weight=2)
def batch_normalisation(b: Builder) -> None:
    x = b.pick(2, 3, 4, 4, 5)
    channels = x.shape[1]
    if x.rank == 4 and b.chance(0.5):
        weight = b.weight((channels, channels, 1, 1), x.dtype, fan_in=channels)
        x = b.add("Conv", x, weight)
    scale, shift, mean = (_vector(b, channels, x) for _ in range(3))
    variance = b.constant(b.rng.uniform(0.5, 2.0, channels), x.dtype)
    y = b.add("BatchNormalization", x, scale, shift, mean, variance, epsilon=_epsilon(b))
    if b.chance(0.5):
        activation(b, y)


@pattern()
def instance_normalisation(b: Builder) -> None:
    x = b.pick(3, 4, 5)
    channels = x.shape[1]
    parameters = [_vector(b, channels, x) for _ in range(2)]
    b.add("InstanceNormalization", x, *parameters, epsilon=_epsilon(b))


@pattern(since=17)
def layer_normalisation(b: Builder) -> None:
    x = b.pick(2, 3, 4)
    axis = b.axis(x.rank)
    shape = x.shape[axis:]
    parameters = [b.weight(shape, x.dtype) for _ in range(b.integer(1, 2))]
    given = b.one_of(None, axis) if axis == -1 else axis
    b.add("LayerNormalization", x, *parameters, axis=given, epsilon=_epsilon(b))


@pattern(since=23)
def rms_normalisation(b: Builder) -> None:
    x = b.pick(2, 3, 4)
    axis = b.axis(x.rank)
    b.add("RMSNormalization", x, b.weight(x.shape[axis:], x.dtype), axis=axis)


@pattern(since=18)
def group_normalisation(b: Builder) -> None:
    x = b.pick(3, 4, 5)
    channels = x.shape[1]
    groups = b.one_of(*[g for g in range(1, channels + 1) if channels % g == 0])
    extent = channels if b.opset >= 21 else groups
    parameters = [_vector(b, extent, x) for _ in range(2)]
    b.add("GroupNormalization", x, *parameters, num_groups=groups, epsilon=_epsilon(b))


@pattern()
def local_response_normalisation(b: Builder) -> None:
    x = b.pick(4)
    attributes = {"alpha": 0.1, "beta": b.one_of(0.5, 0.75), "bias": b.one_of(1.0, 2.0)}
    chosen = {name: value for name, value in attributes.items() if b.chance(0.7)}
    b.add("LRN", x, size=b.one_of(1, 3, 5), **chosen)  # ONNX Runtime takes odd ones only


@pattern(since=9)
def mean_variance_normalisation(b: Builder) -> None:
    x = b.pick(4, where=lambda t: t.shape[0] * t.shape[2] * t.shape[3] > 3)
    axes = b.one_of(None, [0, 2, 3], [1, 2, 3], [2, 3])
    deviation = x.value.astype(np.float64).std(axis=tuple(axes or (0, 2, 3)))
    if deviation.min() < LEAST_DEVIATION:
        raise Redraw("rounding errors of equal values would be divided by their deviation")
    b.add("MeanVarianceNormalization", x, axes=axes)


@pattern()
def norm_normalisation(b: Builder) -> None:
    x = b.pick(2, 3, 4)
    b.add("LpNormalization", x, axis=b.one_of(b.axis(x.rank), None), p=b.one_of(1, 2, None))


@pattern(since=11)
def cumulative_sum(b: Builder) -> None:
    x = b.pick(kind="fi")
    axis = b.constant(b.axis(x.rank), b.one_of("int64", "int32"))
    b.add("CumSum", x, axis, exclusive=b.one_of(0, 1, None), reverse=b.one_of(0, 1, None))
