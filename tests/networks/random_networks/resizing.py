"""Resize in all its modes, and the operators that came before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from random_networks.builder import Builder, Tensor
from random_networks.menu import pattern

FIRST_COORDINATES = (
    "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
)  # fmt: skip
SCALES = (0.5, 0.6, 0.75, 1.0, 1.3, 1.5, 2.0, 2.4, 3.0)


def _image(b: Builder) -> Tensor:
    return b.pick(4, 4, 4, 3, 5, where=lambda t: t.value.size < 4000)


def _scales(b: Builder, rank: int) -> list[float]:
    """Return scales of the axes; those of batch and channels are mostly 1."""
    return [
        1.0 if axis < 2 and b.chance(0.93) else float(b.one_of(*SCALES)) for axis in range(rank)
    ]


@pattern(until=9)
def upsample(b: Builder) -> None:
    x = _image(b)
    scales = [max(1.0, scale) for scale in _scales(b, x.rank)]
    mode = b.one_of("nearest", "linear")
    if b.opset < 9:
        b.add("Upsample", x, mode=mode, scales=scales)
    else:
        b.add("Upsample", x, b.constant(scales, np.float32), mode=mode)


@pattern(since=10, until=10)
def resize_10(b: Builder) -> None:
    x = _image(b)
    b.add(
        "Resize", x, b.constant(_scales(b, x.rank), np.float32), mode=b.one_of("nearest", "linear")
    )


@pattern(weight=4, since=11)
def resize(b: Builder) -> None:
    x = _image(b)
    attributes = _modes(b)
    axes = list(range(x.rank))
    if b.opset >= 18 and b.chance(0.3):
        axes = b.one_of(list(range(2, x.rank)), b.axes(x.rank))
        attributes["axes"] = axes
    scales = [_scales(b, x.rank)[axis] for axis in axes]
    extents = [x.shape[axis] for axis in axes]
    none = b.constant([], np.float32) if b.opset < 13 else None
    region = none
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        # ONNX Runtime leaves axes of scale 1 as they are, whatever their region
        starts = [0.0 if scale == 1 else b.one_of(0.0, 0.1, 0.25) for scale in scales]
        ends = [1.0 if scale == 1 else b.one_of(1.0, 0.8, 1.2) for scale in scales]
        region = b.constant([*starts, *ends], np.float32)
    if b.chance(0.5):
        sizes = [max(1, round(n * scale)) for n, scale in zip(extents, scales, strict=True)]
        if b.opset >= 18 and b.chance(0.3):
            policy = b.one_of("stretch", "not_larger", "not_smaller")
            attributes["keep_aspect_ratio_policy"] = policy
        b.add("Resize", x, region, none, b.constant(sizes, np.int64), **attributes)
        return
    b.add("Resize", x, region, b.constant(scales, np.float32), **attributes)


def _modes(b: Builder) -> dict[str, Any]:
    """Return attributes of Resize; each may be missing."""
    mode = b.one_of("nearest", "linear", "cubic")
    coordinates = [*FIRST_COORDINATES, "half_pixel_symmetric" if b.opset >= 19 else "asymmetric"]
    if b.opset < 13:
        coordinates.append("tf_half_pixel_for_nn")
    attributes: dict[str, Any] = {"mode": mode}
    if b.chance(0.8):
        attributes["coordinate_transformation_mode"] = b.one_of(*coordinates)
    if mode == "nearest" and b.chance(0.7):
        names = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        attributes["nearest_mode"] = b.one_of(*names)
    if mode == "cubic" and b.chance(0.5):
        attributes["cubic_coeff_a"] = b.one_of(-0.75, -0.5, -0.6)
    if mode == "cubic" and b.chance(0.3):
        attributes["exclude_outside"] = 1
    if mode != "nearest" and b.opset >= 18 and b.chance(0.3):
        attributes["antialias"] = 1
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize" and b.chance(0.5):
        attributes["extrapolation_value"] = 0.7
    return attributes


@pattern(since=16, weight=0.7)
def grid_sample(b: Builder) -> None:
    x = b.pick(4)
    grid = b.add("Tanh", b.input((x.shape[0], b.integer(1, 5), b.integer(1, 5), 2), x.dtype))
    linear, cubic = ("bilinear", "bicubic") if b.opset < 20 else ("linear", "cubic")
    b.add(
        "GridSample",
        x,
        grid,
        mode=b.one_of(linear, "nearest", cubic),
        padding_mode=b.one_of("zeros", "border", "reflection"),
        align_corners=b.integer(0, 1),
    )


@pattern()
def depth_and_space(b: Builder) -> None:
    x = b.pick(4)
    block = b.integer(2, 3)
    if all(n % block == 0 for n in x.shape[2:]) and b.chance(0.7):
        b.add("SpaceToDepth", x, blocksize=block)
        return
    channels = block * block * b.integer(1, 3)
    y = b.operand((b.batch, channels, b.integer(1, 5), b.integer(1, 5)), x.dtype)
    mode = b.one_of("DCR", "CRD", None) if b.opset >= 11 else None
    b.add("DepthToSpace", y, blocksize=block, mode=mode)
