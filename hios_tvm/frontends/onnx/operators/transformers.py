"""Attention and embeddings of the domain com.microsoft."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import sqrt

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators import indexing
from hios_tvm.frontends.onnx.operators.attention import (
    Heads,
    attend,
    heads,
    layer_norm,
    rms_norm,
    rotated,
    simplified_layer_normalization,
)
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.normalization import inverse_root, moments
from hios_tvm.frontends.tensors import constant, constant_of, dtype_of, shape_of

EPSILON = 1e-12
MASKED = -10000.0
"""What the operators add to the scores of masked keys unless they say otherwise."""

LOWEST = float(np.finfo(np.float32).min)
"""What they add to the scores of keys behind the query."""


# --- Normalization ---


def skip_layer_normalization(call: OperatorCall) -> list[Value]:
    epsilon = call.attributes.number("epsilon", EPSILON)
    total = _skipped(call, call.optional_tensor(4))
    output = layer_norm(call, total, call.tensor(2), call.optional_tensor(3), epsilon)
    return [output, *_statistics(call, total, epsilon), total]


def skip_simplified_layer_normalization(call: OperatorCall) -> list[Value]:
    if any(call.is_used[1:3]):
        raise call.unsupported("its statistics are for training only; export it for inference")
    epsilon = call.attributes.number("epsilon", EPSILON)
    total = _skipped(call, call.optional_tensor(3))
    return [rms_norm(call, total, call.tensor(2), epsilon), None, None, total]


def _skipped(call: OperatorCall, bias: relax.Expr | None) -> relax.Expr:
    """The sum of the input, what skipped the layer, and a bias."""
    x, skip = call.tensor(0), call.tensor(1)
    total = call.emit(relax.op.add(x, skip))
    return total if bias is None else call.emit(relax.op.add(total, bias))


def _statistics(call: OperatorCall, x: relax.Expr, epsilon: float) -> list[Value]:
    """The mean and the inverse deviation along the last axis, where they are used."""
    if not any(call.is_used[1:3]):
        return [None, None]
    mean, _, variance = moments(call, x, [-1])
    return [mean, inverse_root(call, variance, epsilon)]


# --- Embeddings ---


def embed_layer_normalization(call: OperatorCall) -> list[Value]:
    """Embeddings of words, positions and segments; their sum, normalized."""
    attributes = call.attributes
    epsilon = attributes.number("epsilon", EPSILON)
    ids = call.tensor(0)
    batch, length = shape_of(ids)
    total = _looked_up(call, call.tensor(2), ids)
    total = call.emit(relax.op.add(total, _positions(call, length)))
    segments, table = call.optional_tensor(1), call.optional_tensor(4)
    if segments is not None and table is not None:
        total = call.emit(relax.op.add(total, _looked_up(call, table, segments)))
    output = layer_norm(call, total, call.tensor(5), call.tensor(6), epsilon)
    attributes.integer("mask_index_type", 0)
    return [output, _mask_lengths(call, batch), total]


def _positions(call: OperatorCall, length: int) -> relax.Expr:
    table, ids = call.tensor(3), call.optional_tensor(8)
    if ids is not None:
        return _looked_up(call, table, ids)
    return call.emit(relax.op.strided_slice(table, [0], [0], [length]))


def _mask_lengths(call: OperatorCall, batch: int) -> relax.Expr | None:
    """How many elements each mask of zeros and ones lets through."""
    if not any(call.is_used[1:2]):
        return None
    mask = call.optional_tensor(7)
    if mask is None:
        return constant_of(np.zeros(batch, np.int32))
    return call.emit(relax.op.sum(mask, [1]))


def _looked_up(call: OperatorCall, table: relax.Expr, ids: relax.Expr) -> relax.Expr:
    rows = indexing.OPERATORS["Gather"](replace(call, arguments=(table, ids)))
    assert isinstance(rows, relax.Expr)
    return call.emit(rows)


# --- Attention ---


def attention(call: OperatorCall) -> list[Value]:
    """Self-attention, with the products that give queries, keys and values."""
    attributes = call.attributes
    _refuse_past_keys(call, (4, 6))
    if attributes.flag("do_rotary"):
        raise call.unsupported("it rotates its queries; export RotaryEmbedding by itself")
    attributes.ignore("past_present_share_buffer", "rotary_embedding_dim")
    x, weights, bias = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    products = call.emit(relax.op.matmul(x, weights))
    if bias is not None:
        products = call.emit(relax.op.add(products, bias))
    third = shape_of(weights)[1] // 3
    sizes = attributes.integers("qkv_hidden_sizes", [third] * 3)
    if len(sizes) != 3 or sum(sizes) != shape_of(weights)[1]:
        raise ValueError("its qkv_hidden_sizes are not those of its weights")
    count = attributes.integer("num_heads")
    parts = call.emit(relax.op.split(products, [sizes[0], sizes[0] + sizes[1]], 2))
    query, key, value = (
        heads(call, call.emit(relax.TupleGetItem(parts, i)), count) for i in range(3)
    )
    output = _attended(call, Heads(query=query, key=key, value=value), mask=3, bias=5)
    present = call.emit(relax.op.stack([key, value], axis=0)) if any(call.is_used[1:]) else None
    return [output, present]


def multi_head_attention(call: OperatorCall) -> list[Value]:
    attributes = call.attributes
    _refuse_past_keys(call, range(6, 10))
    query, key, value = call.tensor(0), call.optional_tensor(1), call.optional_tensor(2)
    if key is None or value is None or len(shape_of(query)) != 3 or len(shape_of(key)) == 5:
        raise call.unsupported("its queries, keys or values are packed; export it unpacked")
    count = attributes.integer("num_heads")
    bias = call.optional_tensor(3)
    if len(shape_of(key)) == 4:  # of another sequence, split into heads
        if bias is not None:
            raise call.unsupported("it adds a bias to keys that are split; export it without")
    else:
        tensors = [query, key, value]
        query, key, value = tensors if bias is None else _with_biases(call, tensors, bias)
        key, value = heads(call, key, count), heads(call, value, count)
    query = heads(call, query, count)
    output = _attended(call, Heads(query=query, key=key, value=value), mask=4, bias=5)
    return [output, key, value]


def _with_biases(
    call: OperatorCall, tensors: list[relax.Expr], bias: relax.Expr
) -> list[relax.Expr]:
    """Add the parts of a bias for queries, keys and values."""
    results, begin = [], 0
    for tensor in tensors:
        end = begin + shape_of(tensor)[2]
        part = call.emit(relax.op.strided_slice(bias, [0], [begin], [end]))
        results.append(call.emit(relax.op.add(tensor, part)))
        begin = end
    return results


def _attended(call: OperatorCall, parts: Heads, *, mask: int, bias: int) -> relax.Expr:
    """Attention, given the inputs that hold the mask and what is added to the scores."""
    attributes = call.attributes
    masked = attributes.number("mask_filter_value", MASKED)
    scale = attributes.number("scale", 0.0) or 1 / sqrt(shape_of(parts.query)[3])
    dtype = dtype_of(parts.query)
    masks = []
    if call.argument(mask) is not None:
        masks.append(_key_mask(call, call.tensor(mask), parts, masked))
    if attributes.flag("unidirectional"):
        queries, keys = shape_of(parts.query)[2], shape_of(parts.key)[2]
        if queries != keys:
            raise call.unsupported("its causal mask is not square; give it as attention_bias")
        is_behind = np.triu(np.ones((queries, keys), bool), 1)
        masks.append(constant(np.where(is_behind, LOWEST, 0), dtype))
    if call.argument(bias) is not None:
        masks.append(call.tensor(bias))
    return attend(call, parts, scale, masks)


def _key_mask(call: OperatorCall, mask: relax.Expr, parts: Heads, masked: float) -> relax.Expr:
    """What a mask adds to the scores: zero for keys that are seen."""
    batch, _, length, _ = shape_of(parts.query)
    keys = shape_of(parts.key)[2]
    zero = constant_of(np.zeros((), dtype_of(mask)))
    shape = shape_of(mask)
    if shape == (batch, keys):
        seen = call.emit(relax.op.greater(call.reshape(mask, [batch, 1, 1, keys]), zero))
    elif shape == (batch, length, keys):
        seen = call.emit(relax.op.greater(call.reshape(mask, [batch, 1, length, keys]), zero))
    elif shape in ((batch,), (2 * batch,)):
        seen = _within(call, mask, batch, keys)
    else:
        raise call.unsupported(f"its mask has the shape {list(shape)}; use one of batch and keys")
    dtype = dtype_of(parts.query)
    return call.emit(relax.op.where(seen, constant(0, dtype), constant(masked, dtype)))


def _within(call: OperatorCall, ends: relax.Expr, batch: int, keys: int) -> relax.Expr:
    """Which keys come before the ends and, where there are begins behind them, not before those."""
    numbers = constant_of(np.arange(keys, dtype=dtype_of(ends)).reshape(1, 1, 1, keys))
    rows = shape_of(ends)[0] // batch
    limits = call.reshape(ends, [rows, batch, 1, 1, 1])
    limit = [
        call.reshape(call.emit(relax.op.strided_slice(limits, [0], [i], [i + 1])), [batch, 1, 1, 1])
        for i in range(rows)
    ]
    seen = call.emit(relax.op.less(numbers, limit[0]))
    if rows == 2:
        begun = call.emit(relax.op.greater_equal(numbers, limit[1]))
        seen = call.emit(relax.op.logical_and(seen, begun))
    return seen


def _refuse_past_keys(call: OperatorCall, inputs: Iterable[int]) -> None:
    if any(call.argument(index) is not None for index in inputs):
        raise call.unsupported("it reads past keys; export it without a cache")


def rotary_embedding(call: OperatorCall) -> Value:
    attributes = call.attributes
    if attributes.flag("is_packed_batching"):
        raise call.unsupported("its batch is packed; export it without is_packed_batching")
    attributes.number("scale", 1.0)  # ONNX Runtime ignores it as well
    x, ids = call.tensor(0), call.tensor(1)
    cosines, sines = call.tensor(2), call.tensor(3)
    size = attributes.integer("rotary_embedding_dim", 0)
    count = attributes.integer("num_heads", 0)
    shape = shape_of(x)
    if len(shape) == 4:
        rows = call.permute(x, [0, 2, 1, 3])
    else:
        count = count if size else shape[2] // (2 * shape_of(cosines)[1])
        if count < 1:
            raise ValueError("num_heads is needed besides rotary_embedding_dim")
        rows = call.reshape(x, [*shape[:2], count, shape[2] // count])
    if shape_of(ids) == (1,):
        offsets = constant_of(np.arange(shape_of(rows)[1], dtype=dtype_of(ids)).reshape(1, -1))
        ids = call.emit(relax.op.add(call.reshape(ids, [1, 1]), offsets))
    cosines, sines = (_looked_up(call, table, ids) for table in (cosines, sines))
    interleaved = attributes.flag("interleaved")
    result = rotated(call, rows, cosines, sines, interleaved=interleaved)
    if len(shape) == 4:
        return call.permute(result, [0, 2, 1, 3])
    return call.reshape(result, shape)


OPERATORS: Mapping[str, Converter] = {
    "Attention": attention,
    "EmbedLayerNormalization": embed_layer_normalization,
    "MultiHeadAttention": multi_head_attention,
    "RotaryEmbedding": rotary_embedding,
    "SimplifiedLayerNormalization": simplified_layer_normalization,
    "SkipLayerNormalization": skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
}
