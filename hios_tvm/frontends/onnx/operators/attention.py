"""Attention and related operators of transformers, for all domains.

The standard's Attention, LinearAttention, CausalConvWithState, SwiGLU and losses are imported by
their definitions in other operators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.precision import widened
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Queries, keys and values as ``(batch, head, position, element)``."""

    query: relax.Expr
    key: relax.Expr
    value: relax.Expr


def heads(call: OperatorCall, tensor: relax.Expr, count: int) -> relax.Expr:
    """Split ``(batch, position, head * element)`` into ``(batch, head, position, element)``."""
    batch, positions, size = shape_of(tensor)
    if count < 1 or size % count:
        raise ValueError(f"{size} elements cannot be split into {count} heads")
    split = call.reshape(tensor, [batch, positions, count, size // count])
    return call.permute(split, [0, 2, 1, 3])


def attend(
    call: OperatorCall, parts: Heads, scale: float, masks: Sequence[relax.Expr]
) -> relax.Expr:
    """``softmax(scale * Q K^T + masks) V`` as ``(batch, position, head * element)``.

    Parameters
    ----------
    call : OperatorCall
    parts : Heads
    scale : float
    masks : sequence of relax.Expr
        What is added to ``(batch, head, query, key)`` before the softmax.
    """
    keys = call.permute(parts.key, [0, 1, 3, 2])
    factor = constant(scale, dtype_of(parts.query))
    scores = call.emit(relax.op.matmul(parts.query, keys))
    scores = call.emit(relax.op.multiply(scores, factor))
    for mask in masks:
        scores = call.emit(relax.op.add(scores, mask))
    weights = call.emit(relax.op.nn.softmax(scores, -1))
    result = call.emit(relax.op.matmul(weights, parts.value))
    batch, count, positions, size = shape_of(result)
    return call.reshape(call.permute(result, [0, 2, 1, 3]), [batch, positions, count * size])


def layer_norm(
    call: OperatorCall,
    x: relax.Expr,
    gamma: relax.Expr,
    beta: relax.Expr | None,
    epsilon: float,
) -> relax.Expr:
    """Normalize along the last axis."""
    wide = widened(call, x)
    if beta is None:
        beta = constant_of(np.zeros(shape_of(gamma), np.dtype(dtype_of(gamma))))
    gamma, beta = (call.cast(vector, dtype_of(wide)) for vector in (gamma, beta))
    result = call.emit(relax.op.nn.layer_norm(wide, gamma, beta, axes=[-1], epsilon=epsilon))
    return call.cast(result, dtype_of(x))


def rms_norm(call: OperatorCall, x: relax.Expr, scale: relax.Expr, epsilon: float) -> relax.Expr:
    """Divide by the root of the mean square along the last axis."""
    wide = widened(call, x)
    scale = call.cast(scale, dtype_of(wide))
    result = call.emit(relax.op.nn.rms_norm(wide, scale, axes=[-1], epsilon=epsilon))
    return call.cast(result, dtype_of(x))


def simplified_layer_normalization(call: OperatorCall) -> Value:
    """RMSNormalization as ONNX Runtime calls it, which writes it in ONNX's own domain too."""
    call.attributes.ignore("stash_type")
    x = call.tensor(0)
    rank = len(shape_of(x))
    if call.axis(rank, default=-1) != rank - 1:
        raise call.unsupported("it normalizes more than the last axis; use RMSNormalization")
    if any(call.is_used[1:]):
        raise call.unsupported("its inverse deviation is for training only; export for inference")
    return rms_norm(call, x, call.tensor(1), call.attributes.number("epsilon", 1e-5))


def rotated(
    call: OperatorCall,
    x: relax.Expr,
    cosines: relax.Expr,
    sines: relax.Expr,
    *,
    interleaved: bool,
) -> relax.Expr:
    """Turn pairs of elements of ``(batch, position, head, element)`` by angles.

    The first elements are turned, as many as there are angles for; the rest stays.

    Parameters
    ----------
    call : OperatorCall
    x, cosines, sines : relax.Expr
        Angles are ``(batch, position, pair)``; their batch may be 1.
    interleaved : bool
        Pairs are neighbours; else one is of the first half, one of the second.
    """
    batch, positions, pairs = shape_of(cosines)
    *outer, size = shape_of(x)
    if 2 * pairs > size:
        raise ValueError(f"{pairs} pairs do not fit the {size} elements of a head")
    angle = [batch, positions, 1, pairs]
    cosines, sines = call.reshape(cosines, angle), call.reshape(sines, angle)

    def part(begin: int, end: int, step: int = 1) -> relax.Expr:
        return call.emit(relax.op.strided_slice(x, [3], [begin], [end], [step]))

    def product(a: relax.Expr, b: relax.Expr) -> relax.Expr:
        return call.emit(relax.op.multiply(a, b))

    if interleaved:
        first, second = part(0, 2 * pairs, 2), part(1, 2 * pairs, 2)
    else:
        first, second = part(0, pairs), part(pairs, 2 * pairs)
    new_first = call.emit(relax.op.subtract(product(first, cosines), product(second, sines)))
    new_second = call.emit(relax.op.add(product(first, sines), product(second, cosines)))
    if interleaved:
        both = call.emit(relax.op.stack([new_first, new_second], axis=-1))
        turned = [call.reshape(both, [*outer, 2 * pairs])]
    else:
        turned = [new_first, new_second]
    rest = [part(2 * pairs, size)] if 2 * pairs < size else []
    if len(turned) + len(rest) == 1:
        return turned[0]
    return call.emit(relax.op.concat([*turned, *rest], 3))


OPERATORS: Mapping[str, Converter] = {
    "SimplifiedLayerNormalization": simplified_layer_normalization
}
