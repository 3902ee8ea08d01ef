"""Gates: a small tensor, computed behind a heavy operator, scales or shifts a large one."""

from __future__ import annotations

import math

from random_networks.broadcasting import FLOAT_BINARY, binary, upward
from random_networks.builder import Builder, Redraw, Tensor
from random_networks.convolution import pointwise
from random_networks.elementwise import activation
from random_networks.menu import pattern
from random_networks.reductions import reduced


def _global_pool(b: Builder, x: Tensor) -> Tensor:
    if b.chance(0.6):
        return b.add(b.one_of("GlobalAveragePool", "GlobalMaxPool"), x)
    return reduced(b, b.one_of("ReduceMean", "ReduceMax"), x, list(range(2, x.rank)))


def _sigmoid(b: Builder, x: Tensor) -> Tensor:
    if b.opset >= 14 and b.chance(0.2):
        return b.add("HardSwish", x)
    return b.add(b.one_of("Sigmoid", "Sigmoid", "HardSigmoid", "Tanh", "Relu"), x)


@pattern(weight=3)
def squeeze_and_excitation(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5)
    gate = _global_pool(b, x)
    for channels in (b.integer(1, 8), x.shape[1]):
        gate = _sigmoid(b, pointwise(b, gate, channels))
    binary(b, b.one_of("Mul", "Mul", "Add"), x, gate)


@pattern(weight=2)
def dense_squeeze_and_excitation(b: Builder) -> None:
    """The same with Gemm on a matrix, which is shaped back for the gate."""
    x = b.pick(4, 3)
    gate = b.add("Flatten", _global_pool(b, x), axis=1)
    for channels in (b.integer(1, 8), x.shape[1]):
        weight = b.weight((channels, gate.shape[1]), x.dtype, fan_in=gate.shape[1])
        gate = _sigmoid(b, b.add("Gemm", gate, weight, b.weight((channels,), x.dtype), transB=1))
    shape = b.constant([*x.shape[:2], *[1] * (x.rank - 2)], "int64")
    binary(b, "Mul", x, b.add("Reshape", gate, shape))


@pattern(weight=2)
def spatial_gate(b: Builder) -> None:
    x = b.pick(4, 4, 3)
    kernel = b.one_of(1, 3, 7)
    rank = x.rank - 2
    fan_in = x.shape[1] * kernel**rank
    weight = b.weight((1, x.shape[1], *[kernel] * rank), x.dtype, fan_in=fan_in)
    gate = b.add("Conv", x, weight, pads=[kernel // 2] * 2 * rank)
    binary(b, b.one_of("Mul", "Add", "Sub"), x, _sigmoid(b, gate))


@pattern()
def pooled_spatial_gate(b: Builder) -> None:
    """Mean and largest channel, concatenated, through a convolution of one output channel."""
    x = b.pick(4)
    pooled = [reduced(b, name, x, [1]) for name in ("ReduceMean", "ReduceMax")]
    both = b.add("Concat", *pooled, axis=1)
    weight = b.weight((1, 2, 7, 7), x.dtype, fan_in=2 * 49)
    binary(b, "Mul", x, _sigmoid(b, b.add("Conv", both, weight, pads=[3, 3, 3, 3])))


def _heavy(b: Builder) -> Tensor:
    """Append an operator with a sum; its result has an extent of 1 somewhere, if that can be."""
    kind = b.one_of("conv", "pool", "gemm", "matmul", "reduce", "transposed", "depthwise")
    if kind == "gemm":
        x = b.pick(2)
        columns = b.one_of(1, 1, 5, 17)
        weight = b.weight((x.shape[1], columns), x.dtype, fan_in=x.shape[1])
        return b.add("Gemm", x, weight, b.weight((columns,), x.dtype))
    if kind == "matmul":
        x = b.pick(2, 3, 4)
        columns = b.one_of(1, 1, 5, 17)
        return b.add("MatMul", x, b.weight((x.shape[-1], columns), x.dtype, fan_in=x.shape[-1]))
    x = b.pick(4, 4, 3)
    kernel = [n if b.chance(0.5) else 1 for n in x.shape[2:]]
    if kind == "pool":
        return b.add(b.one_of("AveragePool", "MaxPool"), x, kernel_shape=kernel)
    if kind == "reduce":
        return reduced(b, "ReduceSum", x, [b.integer(0, x.rank - 1)])
    if kind == "depthwise":
        shape = (x.shape[1], 1, *kernel)
        weight = b.weight(shape, x.dtype, fan_in=math.prod(kernel))
        return b.add("Conv", x, weight, group=x.shape[1])
    channels = b.one_of(1, 1, 3, 17, 32)
    if kind == "transposed":
        shape = (x.shape[1], channels, *[1] * (x.rank - 2))
        return b.add("ConvTranspose", x, b.weight(shape, x.dtype, fan_in=x.shape[1]))
    fan_in = x.shape[1] * math.prod(kernel)
    return b.add("Conv", x, b.weight((channels, x.shape[1], *kernel), x.dtype, fan_in=fan_in))


@pattern(weight=5)
def upward_broadcast(b: Builder) -> None:
    """A result with extents of 1 meets a larger tensor, at once or behind an activation."""
    y = _heavy(b)
    for _ in range(b.integer(0, 2)):
        y = activation(b, y)
    larger = upward(b, y.shape)
    if math.prod(larger) > 20_000:
        raise Redraw("too large")
    z = binary(b, b.one_of(*FLOAT_BINARY), y, b.operand(larger, y.dtype))
    if b.chance(0.3):
        activation(b, z)


@pattern(weight=2)
def gates_each_other(b: Builder) -> None:
    """A convolution's result gates that of another one, both behind activations."""
    x = b.pick(4)
    y = activation(b, pointwise(b, x, b.integer(2, 9)))
    gate = activation(b, pointwise(b, x, b.one_of(1, y.shape[1])))
    if b.chance(0.5):
        gate = _global_pool(b, gate)
    binary(b, b.one_of(*FLOAT_BINARY), y, gate)


@pattern()
def two_readers(b: Builder) -> None:
    """A gate that two tensors of different shapes read."""
    x = b.pick(4)
    gate = b.add("Sigmoid", pointwise(b, _global_pool(b, x), x.shape[1]))
    b.add("Mul", x, gate)
    b.add("Add", gate, b.operand(upward(b, gate.shape), x.dtype))
