"""Attention as exporters write it, and what double precision says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from lowered_models import Array, model_of, random
from onnx import ModelProto, NodeProto, helper

CONSTANTS = {
    "scale": np.array(0.5, np.float32),
    "zero": np.array(0.0, np.float32),
    "lowest": np.array(-np.inf, np.float32),
}


def node(operator: str, *names: str, **attributes: object) -> NodeProto:
    *inputs, output = names
    return helper.make_node(operator, inputs, [output], **attributes)


def heads(name: str) -> list[NodeProto]:
    """``(batch, position, head * element)`` as ``(batch, head, position, element)``."""
    return [
        node("Reshape", name, f"{name}_split", f"{name}_parts"),
        node("Transpose", f"{name}_parts", f"{name}_heads", perm=[0, 2, 1, 3]),
    ]


def attention(
    sizes: tuple[int, int, int, int, int, int],
    masks: Sequence[NodeProto] = (),
    weights: Mapping[str, Array] | None = None,
    tail: Sequence[NodeProto] = (),
) -> ModelProto:
    """Attention between linear layers, as exporters write it.

    `sizes` are batch, heads, queries, keys, elements of a query and elements of a value. `masks`
    make ``t`` of the scores ``s``, and `tail` makes ``w`` of the softmax ``p``.
    """
    batch, count, queries, keys, inner, columns = sizes
    nodes = [
        *(part for name in "qkv" for part in heads(name)),
        node("Transpose", "k_heads", "k_columns", perm=[0, 1, 3, 2]),
        node("Mul", "q_heads", "scale", "q_scaled"),
        node("Mul", "k_columns", "scale", "k_scaled"),
        node("MatMul", "q_scaled", "k_scaled", "s"),
        *(masks or [node("Identity", "s", "t")]),
        node("Softmax", "t", "p", axis=-1),
        *(tail or [node("Identity", "p", "w")]),
        node("MatMul", "w", "v_heads", "o"),
        node("Transpose", "o", "o_parts", perm=[0, 2, 1, 3]),
        node("Reshape", "o_parts", "joined", "y"),
    ]
    splits = {
        "q_split": np.array([batch, queries, count, inner]),
        "k_split": np.array([batch, keys, count, inner]),
        "v_split": np.array([batch, keys, count, columns]),
        "joined": np.array([batch, queries, count * columns]),
    }
    inputs = {
        "q": (batch, queries, count * inner),
        "k": (batch, keys, count * inner),
        "v": (batch, keys, count * columns),
    }
    return model_of(nodes, inputs, {**splits, **CONSTANTS, **(weights or {})})


def exact(
    sizes: tuple[int, int, int, int, int, int], feeds: Mapping[str, Array], mask: Array
) -> Array:
    """The same in double precision; `mask` is added to the scores."""
    batch, count, queries, keys, _, columns = sizes
    q, k, v = (
        feeds[name].astype("float64").reshape(batch, positions, count, -1).transpose(0, 2, 1, 3)
        for name, positions in (("q", queries), ("k", keys), ("v", keys))
    )
    scores = q @ k.transpose(0, 1, 3, 2) * 0.25 + mask
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result = powers / powers.sum(axis=-1, keepdims=True) @ v
    return result.transpose(0, 2, 1, 3).reshape(batch, queries, count * columns)


def feeds_of(model: ModelProto) -> dict[str, Array]:
    return {
        value.name: random(*(d.dim_value for d in value.type.tensor_type.shape.dim), seed=seed)
        for seed, value in enumerate(model.graph.input)
    }


ADDED = node("Add", "s", "mask", "t")
"""A mask that is added to the scores."""
