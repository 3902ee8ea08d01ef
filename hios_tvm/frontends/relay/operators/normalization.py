"""Normalizations, softmax and parametrized activations."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of


def softmax(function: Callable[..., relax.Expr]) -> Converter:
    def convert(call: OperatorCall) -> Value:
        data = call.tensor(0)
        return function(data, call.axis(len(shape_of(data)), default=-1))

    return convert


def leaky_relu(call: OperatorCall) -> Value:
    return relax.op.nn.leakyrelu(call.tensor(0), call.attributes.number("alpha", 0.25))


def prelu(call: OperatorCall) -> Value:
    data, slope = call.tensor(0), call.tensor(1)
    rank = len(shape_of(data))
    axis = call.axis(rank, default=1)
    if shape_of(slope) == (1,):  # one slope for all channels
        slope = call.emit(relax.op.broadcast_to(slope, [shape_of(data)[axis]]))
    return relax.op.nn.prelu(data, slope, axis)


def batch_norm(call: OperatorCall) -> Value:
    """The normalized tensor, and the unchanged mean and variance."""
    data, *_, mean, variance = (call.tensor(i) for i in range(5))
    attributes = call.attributes
    result = call.emit(
        relax.op.nn.batch_norm(
            *(call.tensor(i) for i in range(5)),
            axis=call.axis(len(shape_of(data)), default=1),
            epsilon=_epsilon(call),
            center=attributes.flag("center", True),
            scale=attributes.flag("scale", True),
            training=False,
        )
    )
    return call.emit(relax.TupleGetItem(result, 0)), mean, variance


def layer_norm(call: OperatorCall) -> Value:
    axis = call.axis(len(shape_of(call.tensor(0))), default=-1)
    return relax.op.nn.layer_norm(*_operands(call), axes=[axis], epsilon=_epsilon(call))


def instance_norm(call: OperatorCall) -> Value:
    return relax.op.nn.instance_norm(*_operands(call), **_channels(call), epsilon=_epsilon(call))


def group_norm(call: OperatorCall) -> Value:
    groups = call.attributes.integer("num_groups")
    return relax.op.nn.group_norm(
        *_operands(call), num_groups=groups, **_channels(call), epsilon=_epsilon(call)
    )


def _operands(call: OperatorCall) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Data, gamma and beta; neutral values where Relay's flags say that one is ignored."""
    data, gamma, beta = (call.tensor(i) for i in range(3))
    if not call.attributes.flag("scale", True):
        gamma = constant_of(np.ones(shape_of(gamma), dtype_of(gamma)))
    if not call.attributes.flag("center", True):
        beta = constant_of(np.zeros(shape_of(beta), dtype_of(beta)))
    return data, gamma, beta


def _channels(call: OperatorCall) -> dict[str, Any]:
    """The axis of channels, and those behind the batch that are reduced."""
    rank = len(shape_of(call.tensor(0)))
    axis = call.axis(rank, default=1)
    return {"channel_axis": axis, "axes": [i for i in range(1, rank) if i != axis]}


def _epsilon(call: OperatorCall) -> float:
    return call.attributes.number("epsilon", 1e-5)


def local_response_norm(call: OperatorCall) -> Value:
    data, attributes = call.tensor(0), call.attributes
    axis, size = call.axis(len(shape_of(data)), default=1), attributes.integer("size", 5)
    if size < 1:
        raise call.error(f"a window of {size} channels has no mean")
    window = min(size, 2 * shape_of(data)[axis] - 1)  # what reaches beyond the channels is zero
    return call.compute(
        topi.nn.lrn,
        data,
        window,
        axis,
        attributes.number("alpha", 0.0001) * window / size,
        attributes.number("beta", 0.75),
        attributes.number("bias", 2.0),
    )


def l2_normalize(call: OperatorCall) -> Value:
    data = call.tensor(0)
    axes = call.attributes.optional_integers("axis") or None
    squares = call.emit(relax.op.sum(call.emit(relax.op.multiply(data, data)), axes, True))
    floor = constant(call.attributes.number("eps"), dtype_of(data))
    norm = call.emit(relax.op.sqrt(call.emit(relax.op.maximum(squares, floor))))
    return relax.op.divide(data, norm)


def dropout(call: OperatorCall) -> Value:
    """The input as it is, and a mask that keeps everything."""
    call.attributes.number("rate", 0.5)
    data = call.tensor(0)
    return data, call.emit(relax.op.ones_like(data))
