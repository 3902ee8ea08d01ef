"""Normalizations, softmax and parametrized activations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of

EPSILON = 1e-5


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
    data, gamma, beta, mean, variance = (call.tensor(i) for i in range(5))
    attributes = call.attributes
    result = call.emit(
        relax.op.nn.batch_norm(
            data,
            gamma,
            beta,
            mean,
            variance,
            axis=call.axis(len(shape_of(data)), default=1),
            epsilon=attributes.number("epsilon", EPSILON),
            center=attributes.flag("center", True),
            scale=attributes.flag("scale", True),
            training=False,
        )
    )
    return call.emit(relax.TupleGetItem(result, 0)), mean, variance


def layer_norm(call: OperatorCall) -> Value:
    data, gamma, beta = (call.tensor(i) for i in range(3))
    axis = call.axis(len(shape_of(data)), default=-1)
    gamma, beta = _scale_and_center(call, gamma, beta)
    return relax.op.nn.layer_norm(
        data, gamma, beta, axes=[axis], epsilon=call.attributes.number("epsilon", EPSILON)
    )


def instance_norm(call: OperatorCall) -> Value:
    data, gamma, beta = (call.tensor(i) for i in range(3))
    rank = len(shape_of(data))
    axis = call.axis(rank, default=1)
    gamma, beta = _scale_and_center(call, gamma, beta)
    return relax.op.nn.instance_norm(
        data,
        gamma,
        beta,
        channel_axis=axis,
        axes=[i for i in range(1, rank) if i != axis],
        epsilon=call.attributes.number("epsilon", EPSILON),
    )


def group_norm(call: OperatorCall) -> Value:
    data, gamma, beta = (call.tensor(i) for i in range(3))
    rank = len(shape_of(data))
    axis = call.axis(rank, default=1)
    gamma, beta = _scale_and_center(call, gamma, beta)
    return relax.op.nn.group_norm(
        data,
        gamma,
        beta,
        num_groups=call.attributes.integer("num_groups"),
        channel_axis=axis,
        axes=[i for i in range(1, rank) if i != axis],
        epsilon=call.attributes.number("epsilon", EPSILON),
    )


def _scale_and_center(
    call: OperatorCall, gamma: relax.Expr, beta: relax.Expr
) -> tuple[relax.Expr, relax.Expr]:
    """Neutral values where Relay's flags say that gamma or beta is ignored."""
    if not call.attributes.flag("scale", True):
        gamma = constant_of(np.ones(shape_of(gamma), dtype_of(gamma)))
    if not call.attributes.flag("center", True):
        beta = constant_of(np.zeros(shape_of(beta), dtype_of(beta)))
    return gamma, beta


def local_response_norm(call: OperatorCall) -> Value:
    data, attributes = call.tensor(0), call.attributes
    return call.compute(
        topi.nn.lrn,
        data,
        attributes.integer("size", 5),
        call.axis(len(shape_of(data)), default=1),
        attributes.number("alpha", 0.0001),
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
