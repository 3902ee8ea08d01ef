"""Convolutions of one to three dimensions."""

from __future__ import annotations

import math

import numpy as np

from random_networks.builder import CHANNELS, Builder, Tensor
from random_networks.elementwise import activation
from random_networks.menu import pattern
from random_networks.windows import window


def conv(b: Builder, x: Tensor, channels: int, groups: int = 1) -> Tensor:
    """Append a convolution with all attributes."""
    attributes = window(b, x.shape[2:])
    kernel = attributes["kernel_shape"]
    if b.chance(0.3):
        del attributes["kernel_shape"]
    if groups > 1 or b.chance(0.2):
        attributes["group"] = groups
    inputs = x.shape[1] // groups
    weight = b.weight((channels, inputs, *kernel), x.dtype, fan_in=inputs * math.prod(kernel))
    return b.add("Conv", x, weight, *_bias(b, channels, x), **attributes)


def pointwise(b: Builder, x: Tensor, channels: int) -> Tensor:
    """Append a 1x1 convolution."""
    shape = (channels, x.shape[1], *[1] * (x.rank - 2))
    weight = b.weight(shape, x.dtype, fan_in=x.shape[1])
    return b.add("Conv", x, weight, *_bias(b, channels, x))


def _bias(b: Builder, channels: int, x: Tensor) -> list[Tensor]:
    return [b.weight((channels,), x.dtype)] if b.chance(0.6) else []


@pattern(weight=4)
def convolution(b: Builder) -> None:
    x = b.pick(4, 4, 4, 3, 5)
    y = conv(b, x, b.one_of(*CHANNELS[: 5 if x.rank == 5 else None]))
    if b.chance(0.5):
        activation(b, y)


@pattern(weight=2)
def grouped_convolution(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5, where=lambda t: t.shape[1] > 1)
    channels = x.shape[1]
    groups = b.one_of(*[g for g in range(2, channels + 1) if channels % g == 0])
    y = conv(b, x, groups * b.one_of(1, 1, 2, 3), groups)
    if b.chance(0.5):
        activation(b, y)


@pattern(weight=2)
def depthwise_convolution(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5, where=lambda t: t.shape[1] > 1)
    y = conv(b, x, x.shape[1] * b.one_of(1, 1, 2), x.shape[1])
    if b.chance(0.7):
        pointwise(b, y, b.one_of(*CHANNELS))


@pattern(weight=2)
def transposed_convolution(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5, where=lambda t: math.prod(t.shape[2:]) < 200)
    rank = x.rank - 2
    groups = b.one_of(1, 1, *[g for g in (2, 3, 4, x.shape[1]) if x.shape[1] % g == 0])
    outputs = b.one_of(1, 2, 3, 5, 8)
    kernel = [b.integer(1, 4) for _ in range(rank)]
    strides = [b.integer(1, 3) for _ in range(rank)]
    attributes: dict[str, object] = {"group": groups, "strides": strides}
    dilations = [b.one_of(1, 1, 2) for _ in range(rank)]
    if b.chance(0.3):
        attributes["dilations"] = dilations
    if b.chance(0.3):
        attributes["output_padding"] = [b.integer(0, stride - 1) for stride in strides]
    choice = b.one_of("pads", "auto_pad", "output_shape", "none")
    if choice == "pads":
        attributes["pads"] = [b.integer(0, k - 1) for k in kernel * 2]
    elif choice == "auto_pad":
        attributes["auto_pad"] = b.one_of("SAME_UPPER", "SAME_LOWER", "VALID")
    elif choice == "output_shape":
        attributes["output_shape"] = [
            (n - 1) * s + k - b.integer(0, k - 1)
            for n, s, k in zip(x.shape[2:], strides, kernel, strict=True)
        ]
        attributes["auto_pad"] = b.one_of("SAME_UPPER", "SAME_LOWER", None)
    fan_in = x.shape[1] / groups * math.prod(kernel) / math.prod(strides)
    weight = b.weight((x.shape[1], outputs, *kernel), x.dtype, fan_in=fan_in)
    y = b.add("ConvTranspose", x, weight, *_bias(b, outputs * groups, x), **attributes)
    if b.chance(0.4):
        activation(b, y)


@pattern()
def shared_weights(b: Builder) -> None:
    """Two convolutions with one weight."""
    x = b.pick(4)
    channels = x.shape[1]
    weight = b.weight((channels, channels, 3, 3), x.dtype, fan_in=channels * 9)
    pads = [1, 1, 1, 1]
    y = activation(b, b.add("Conv", x, weight, pads=pads))
    z = b.add("Conv", y, weight, pads=pads)
    b.add("Add", z, b.one_of(x, y))


@pattern(weight=2)
def residual(b: Builder) -> None:
    x = b.pick(4)
    channels = x.shape[1]
    y = x
    for _ in range(b.integer(1, 2)):
        kernel = b.one_of(1, 3, 5)
        shape = (channels, channels, kernel, kernel)
        weight = b.weight(shape, x.dtype, fan_in=channels * kernel * kernel)
        y = b.add("Conv", y, weight, *_bias(b, channels, x), pads=[kernel // 2] * 4)
        if b.chance(0.5):
            y = activation(b, y)
    y = b.add(b.one_of("Add", "Add", "Mul", "Sub"), *b.one_of((x, y), (y, x)))
    if b.chance(0.5):
        activation(b, y)


@pattern()
def computed_weight(b: Builder) -> None:
    """A convolution whose weight is computed from an input."""
    x = b.pick(4)
    weight = b.input((b.integer(1, 4), x.shape[1], 1, 1), x.dtype)
    scale = b.constant(1 / np.sqrt(x.shape[1]), x.dtype)
    b.add("Conv", x, b.add("Mul", weight, scale))


@pattern(weight=0.7, since=10)
def integer_convolution(b: Builder) -> None:
    x = b.input((b.batch, b.integer(1, 4), 7, 5), "uint8")
    weight = b.weight((b.integer(1, 5), x.shape[1], 3, 3), "uint8")
    zeros = [b.constant(b.integer(0, 3), "uint8") for _ in range(b.integer(0, 2))]
    b.add("ConvInteger", x, weight, *zeros, pads=b.one_of(None, [1, 1, 1, 1]))
