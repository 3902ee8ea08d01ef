"""Operators of one element each: arithmetic, activations, types, comparisons."""

from __future__ import annotations

import numpy as np

from random_networks.broadcasting import FLOAT_BINARY, binary, smaller, upward
from random_networks.builder import KIND_TYPES, Builder, Tensor
from random_networks.menu import pattern

PLAIN = {
    "Relu": 7, "Sigmoid": 7, "Tanh": 7, "Softplus": 7, "Softsign": 7, "Neg": 7, "Abs": 7, "Exp": 7,
    "Floor": 7, "Ceil": 7, "Identity": 7, "Sin": 7, "Cos": 7, "Atan": 7, "Erf": 9, "Sign": 9,
    "Sinh": 9, "Cosh": 9, "Asinh": 9, "Round": 11, "HardSwish": 14, "Mish": 18,
}  # fmt: skip
"""Operators without attributes that take any number, and the first opset that has them."""

WITH_ATTRIBUTES = {
    "LeakyRelu": (7, ("alpha",)),
    "Elu": (7, ("alpha",)),
    "HardSigmoid": (7, ("alpha", "beta")),
    "Selu": (7, ("alpha", "gamma")),
    "ThresholdedRelu": (10, ("alpha",)),
    "Celu": (12, ("alpha",)),
    "Shrink": (9, ("lambd", "bias")),
    "Swish": (24, ("alpha",)),
}


def activation(b: Builder, x: Tensor) -> Tensor:
    """Append an activation function of floats."""
    known = [name for name, since in PLAIN.items() if since <= b.opset]
    known += [name for name, (since, _) in WITH_ATTRIBUTES.items() if since <= b.opset]
    operator = b.one_of(*known, "Relu", "Relu", "Sigmoid", "Sigmoid")
    if operator in PLAIN:
        return b.add(operator, x)
    names = WITH_ATTRIBUTES[operator][1]
    given = {name: float(b.rng.uniform(0.1, 1.5)) for name in names if b.chance(0.7)}
    return b.add(operator, x, **given)


@pattern(weight=3)
def activations(b: Builder) -> None:
    x = b.pick()
    for _ in range(b.integer(1, 2)):
        x = activation(b, x)


@pattern(weight=2)
def functions_of_a_range(b: Builder) -> None:
    """Functions that take a part of the numbers only."""
    x = b.pick()
    one = b.constant(1.0, x.dtype)
    operator = b.one_of("Sqrt", "Log", "Reciprocal", "Acosh", "Asin", "Acos", "Atanh", "Pow", "Tan")
    if operator in ("Asin", "Acos", "Atanh", "Tan"):
        b.add(operator, b.add("Mul", b.add("Tanh", x), b.constant(0.9, x.dtype)))
        return
    positive = b.add("Add", b.add("Abs", x), one)
    if operator == "Pow":
        exponent = b.one_of(2.0, 3.0, 0.5, -1.0, 1.5)
        base = b.one_of(x, positive) if exponent in (2.0, 3.0) else positive
        b.add("Pow", base, b.constant(exponent, x.dtype))
        return
    b.add(operator, positive)


@pattern(weight=4)
def broadcasts(b: Builder) -> None:
    """A binary operator with an operand of a smaller or a larger shape."""
    x = b.pick(0, 1, 2, 3, 4, 5)
    shape = smaller(b, x.shape) if b.chance(0.6) else upward(b, x.shape)
    y = binary(b, b.one_of(*FLOAT_BINARY), x, b.operand(shape, x.dtype))
    if b.chance(0.3):
        activation(b, y)


@pattern()
def same_operand_twice(b: Builder) -> None:
    x = b.pick()
    operator = b.one_of("Add", "Mul", "Sub", "Concat", "Max", "Sum", "Mean", "Pow")
    if operator == "Concat":
        b.add("Concat", *[x] * b.integer(2, 3), axis=b.integer(0, x.rank - 1))
    elif operator in ("Sum", "Mean", "Max"):
        b.add(operator, *[x] * b.integer(2, 3))
    elif operator == "Pow":
        positive = b.add("Sigmoid", x)
        b.add("Pow", positive, positive)
    else:
        b.add(operator, x, x)


@pattern()
def variadic(b: Builder) -> None:
    x = b.pick()
    others = [b.operand(smaller(b, x.shape), x.dtype) for _ in range(b.integer(0, 3))]
    at = b.integer(0, len(others))
    b.add(b.one_of("Sum", "Mean", "Max", "Min"), *others[:at], x, *others[at:])


@pattern()
def prelu(b: Builder) -> None:
    x = b.pick()
    b.add("PRelu", x, b.weight(smaller(b, x.shape), x.dtype))


@pattern()
def clip(b: Builder) -> None:
    x = b.pick(kind="ffi") if b.opset >= 12 else b.pick()
    low, high = sorted(b.noise((2,), x.dtype).tolist())
    if b.opset < 11:
        b.add("Clip", x, min=low if b.chance(0.7) else None, max=high if b.chance(0.7) else None)
        return
    bounds = [b.constant(bound, x.dtype) if b.chance(0.7) else None for bound in (low, high)]
    b.add("Clip", x, *bounds)


@pattern(weight=0.5)
def dropout(b: Builder) -> None:
    x = b.pick()
    if b.opset < 12:
        b.add_many("Dropout", x, outputs=1, ratio=0.3)
    else:
        b.add_many("Dropout", x, b.constant(0.3, np.float32), outputs=b.integer(1, 2))


@pattern(since=20, weight=0.5)
def gelu(b: Builder) -> None:
    b.add("Gelu", b.pick(), approximate=b.one_of("none", "tanh", None))


@pattern(weight=2)
def integers(b: Builder) -> None:
    """Arithmetic of integers, with broadcasting."""
    x = b.pick(kind="i")
    y = b.operand(smaller(b, x.shape), x.dtype)
    operator = b.one_of(
        "Add", "Sub", "Mul", "Max", "Min", "Div", "Mod", "Pow", "Abs", "Neg", "Sign"
    )
    if operator in ("Abs", "Neg", "Sign"):
        b.add(operator, x)
    elif operator == "Pow":
        b.add("Pow", x, b.constant(b.integer(0, 3), x.dtype))
    elif operator in ("Div", "Mod"):
        divisor = b.constant(np.where(b.rng.random(y.shape) < 0.5, 3, 2), x.dtype)
        fmod = int(b.chance(0.3)) if operator == "Mod" else None
        b.add(operator, x, divisor, fmod=fmod)
    else:
        binary(b, operator, x, y)


@pattern(since=10, weight=0.5)
def float_mod(b: Builder) -> None:
    x = b.pick()
    b.add("Mod", x, b.constant(1.37, x.dtype), fmod=1)


@pattern(since=11, weight=0.5)
def bits(b: Builder) -> None:
    x = b.pick(kind="i")
    if x.dtype.kind == "u" and b.chance(0.5):
        by = b.constant(b.rng.integers(0, 4, smaller(b, x.shape)), x.dtype)
        b.add("BitShift", x, by, direction=b.one_of("LEFT", "RIGHT"))
    elif b.opset >= 18:
        operator = b.one_of("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot")
        others = [] if operator == "BitwiseNot" else [b.operand(smaller(b, x.shape), x.dtype)]
        b.add(operator, x, *others)


@pattern(weight=2)
def casts(b: Builder) -> None:
    """A cast; floats are scaled first, so that integers differ."""
    x = b.pick(kind="ffib")
    target = np.dtype(b.one_of(*KIND_TYPES[b.one_of("f", "i", "b")]))
    if x.dtype.kind == "f" and target.kind in "iu":
        x = b.add("Mul", x, b.constant(3.0, x.dtype))
    if x.dtype.kind in "fi" and target.kind == "u":
        x = b.add("Abs", x)
    if b.opset >= 15 and b.chance(0.2):
        b.add("CastLike", x, b.weight((1,), target))
    else:
        code = Tensor("", np.zeros(0, target)).element
        b.add("Cast", x, to=code)


@pattern(weight=2)
def comparisons(b: Builder) -> None:
    """A comparison, and what depends on it."""
    x = b.pick(kind="ffi")
    operators = ["Less", "Greater", "Equal"]
    operators += ["LessOrEqual", "GreaterOrEqual"] if b.opset >= 12 else []
    y = b.operand(smaller(b, x.shape), x.dtype)
    decision = binary(b, b.one_of(*operators), x, y)
    if b.chance(0.6) and b.opset >= 9:
        shape = decision.shape
        choices = [b.operand(smaller(b, shape), x.dtype) for _ in range(2)]
        b.add("Where", decision, *choices)


@pattern(weight=2)
def logic(b: Builder) -> None:
    x = b.pick(kind="b")
    operator = b.one_of("And", "Or", "Xor", "Not", "Equal", "Where")
    if operator == "Not":
        b.add("Not", x)
    elif operator == "Where":
        dtype = b.type_of(b.one_of("f", "i", "f"))
        choices = [b.operand(b.one_of(smaller, upward)(b, x.shape), dtype) for _ in range(2)]
        b.add("Where", x, *choices)
    else:
        b.add(operator, x, b.operand(smaller(b, x.shape), bool))


@pattern(since=13, weight=0.5)
def special_numbers(b: Builder) -> None:
    """Infinities and NaN; nothing but an output reads the result."""
    x = b.feed(b.rng.choice(np.array([1.5, -2.0, np.inf, -np.inf, np.nan], b.float_type), (3, 7)))
    operator = b.one_of(
        "IsNaN", "IsInf", "Relu", "Max", "Min", "Clip", "Abs", "Add", "Less", "Where"
    )
    if operator in ("Max", "Min", "Add", "Less"):
        b.add(operator, x, b.weight((7,)))
    elif operator == "Clip":
        b.add("Clip", x, b.constant(-1.0, x.dtype), b.constant(1.0, x.dtype))
    elif operator == "Where":
        b.add("Where", b.add("IsNaN", x), b.weight((3, 1)), x)
    else:
        b.add(operator, x)
