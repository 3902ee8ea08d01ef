"""Matrix products, attention, recurrent layers."""

from __future__ import annotations

import math
from typing import Any

from random_networks.broadcasting import smaller
from random_networks.builder import EXTENTS, Builder
from random_networks.elementwise import activation
from random_networks.menu import pattern


@pattern(weight=3)
def gemm(b: Builder) -> None:
    """Gemm with all attributes, and a third operand of any shape that broadcasts."""
    x = b.pick(2)
    trans_a, trans_b = b.integer(0, 1), b.integer(0, 1)
    rows, inner = x.shape[::-1] if trans_a else x.shape
    columns = b.one_of(*EXTENTS, 33)
    shape = (columns, inner) if trans_b else (inner, columns)
    operands = [b.weight(shape, x.dtype, fan_in=inner)]
    if b.chance(0.7) or b.opset < 11:
        operands.append(b.operand(smaller(b, (rows, columns)), x.dtype))
    attributes: dict[str, Any] = {
        "transA": trans_a or None,
        "transB": trans_b or None,
        "alpha": b.one_of(None, 0.5, 1.7),
        "beta": b.one_of(None, 0.3, 2.0),
    }
    y = b.add("Gemm", x, *operands, **attributes)
    if b.chance(0.4):
        activation(b, y)


@pattern(weight=3)
def product(b: Builder) -> None:
    """MatMul with batch dimensions that broadcast; vectors too."""
    x = b.pick(1, 2, 2, 3, 3, 4)
    inner, columns = x.shape[-1], b.one_of(*EXTENTS, 33)
    kind = b.one_of("weight", "weight", "batch", "vector", "input")
    batch = smaller(b, x.shape[:-2]) if kind == "batch" and x.rank > 2 else ()
    shape = (inner,) if kind == "vector" else (*batch, inner, columns)
    y = b.input(shape, x.dtype) if kind == "input" else b.weight(shape, x.dtype, fan_in=inner)
    z = b.add("MatMul", x, y)
    if z.rank and b.chance(0.5):
        z = b.add("Add", z, b.operand(smaller(b, z.shape), x.dtype))
    if z.rank and b.chance(0.4):
        activation(b, z)


@pattern()
def product_with_itself(b: Builder) -> None:
    x = b.pick(2, 3, 4)
    scaled = b.add("Mul", x, b.constant(1 / math.sqrt(x.shape[-1]), x.dtype))
    if x.shape[-1] == x.shape[-2] and b.chance(0.7):
        b.add("MatMul", scaled, scaled)
        return
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    b.add("MatMul", scaled, b.add("Transpose", scaled, perm=order))


@pattern()
def attention(b: Builder) -> None:
    """Attention of one head, written out, with a mask now and then."""
    x = b.pick(3, where=lambda t: t.shape[2] > 1)
    length, width = x.shape[1:]
    q, k, v = (
        b.add("MatMul", x, b.weight((width, width), x.dtype, fan_in=width)) for _ in range(3)
    )
    scores = b.add("MatMul", q, b.add("Transpose", k, perm=[0, 2, 1]))
    scores = b.add("Mul", scores, b.constant(1 / math.sqrt(width), x.dtype))
    if b.chance(0.4) and b.opset >= 9:
        mask = b.input((x.shape[0], 1, length), "bool")
        scores = b.add("Where", mask, scores, b.constant(-50.0, x.dtype))
    b.add("MatMul", b.add("Softmax", scores, axis=2), v)


@pattern(since=12)
def einsum(b: Builder) -> None:
    x = b.pick(2, 3)
    letters = "ab" if x.rank == 2 else "bac"
    sizes = dict(zip(letters, x.shape, strict=True)) | {"k": b.integer(1, 7)}
    other, result = b.one_of(
        (letters[-1] + "k", letters[:-1] + "k"),
        (letters, ""),
        (letters, letters[::-1]),
        (letters[0], letters[1:]),
        ("k" + letters[-1], "k" + letters),
        (letters[-1], None),
    )
    equation = f"{letters},{other}" + ("" if result is None else f"->{result}")
    if b.chance(0.2):
        equation = f"{letters}->{letters[::-1]}" if b.chance(0.5) else f"{letters}->{letters[0]}"
        b.add("Einsum", x, equation=equation)
        return
    weight = b.weight([sizes[letter] for letter in other], x.dtype, fan_in=sizes[letters[-1]])
    b.add("Einsum", x, weight, equation=equation)


@pattern(weight=0.7, since=10)
def integer_product(b: Builder) -> None:
    rows, inner, columns = b.integer(1, 9), b.integer(1, 17), b.integer(1, 9)
    x = b.input((rows, inner), b.one_of("uint8", "int8"))
    y = b.weight((inner, columns), x.dtype)
    zeros = [b.constant(b.integer(0, 3), x.dtype) for _ in range(b.integer(0, 2))]
    b.add("MatMulInteger", x, y, *zeros)


@pattern(weight=0.7, since=10)
def quantised(b: Builder) -> None:
    x = b.pick(2, 3, 4)
    scale = b.constant(b.one_of(0.1, 0.037), x.dtype)
    zero = b.constant(b.integer(0, 5), b.one_of("uint8", "int8"))
    y = b.add("QuantizeLinear", x, scale, zero)
    b.add("DequantizeLinear", y, scale, zero)


@pattern(weight=1.5)
def recurrent(b: Builder) -> None:
    operator, gates = b.one_of(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    steps, batch, width, hidden = (b.integer(1, n) for n in (5, 3, 6, 5))
    direction = b.one_of("forward", "reverse", "bidirectional")
    count = 2 if direction == "bidirectional" else 1
    x = b.operand((steps, batch, width))
    rows = gates * hidden
    weights = [
        b.weight((count, rows, width), x.dtype, fan_in=width),
        b.weight((count, rows, hidden), x.dtype, fan_in=hidden),
    ]
    state = (count, batch, hidden)
    optional = [
        b.weight((count, 2 * rows), x.dtype) if b.chance(0.7) else None,
        b.constant(b.rng.integers(1, steps + 1, batch), "int32") if b.chance(0.3) else None,
        b.operand(state, x.dtype) if b.chance(0.5) else None,
    ]
    if operator == "LSTM":
        optional.append(b.operand(state, x.dtype) if b.chance(0.5) else None)
        optional.append(b.weight((count, 3 * hidden), x.dtype) if b.chance(0.3) else None)
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if operator == "GRU":
        attributes["linear_before_reset"] = b.integer(0, 1)
    if operator == "LSTM" and b.chance(0.2):
        attributes["input_forget"] = 1
    if b.chance(0.2):
        attributes["clip"] = 0.8
    if operator == "RNN" and b.chance(0.4):
        attributes["activations"] = ["Relu"] * count
    outputs = 3 if operator == "LSTM" else 2
    b.add_many(operator, x, *weights, *optional, outputs=outputs, **attributes)
