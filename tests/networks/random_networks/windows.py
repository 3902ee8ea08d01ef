"""Attributes of operators that move a window over an image: pooling and convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from random_networks.builder import Builder


def window(
    b: Builder, sizes: Sequence[int], *, dilates: bool = True, pads_less_than_kernel: bool = False
) -> dict[str, Any]:
    """Return kernel_shape, strides, dilations and pads or auto_pad for an image of `sizes`.

    The window fits into the padded image. Each attribute that has a default may be missing.
    """
    rank = len(sizes)
    kernel = [b.integer(1, min(5, size + 1)) for size in sizes]
    if b.chance(0.3):
        kernel = [min(3, size) for size in sizes]
    attributes: dict[str, Any] = {}
    if b.chance(0.6):
        attributes["strides"] = [b.one_of(1, 2, 2, 3, 4) for _ in range(rank)]
    dilations = [1] * rank
    if dilates and b.chance(0.3):
        dilations = [b.one_of(1, 2, 3) for _ in range(rank)]
        attributes["dilations"] = dilations
    auto_pad = b.one_of("SAME_UPPER", "SAME_LOWER", "VALID", None, None, None)
    if auto_pad is not None:
        attributes["auto_pad"] = auto_pad
    most = [k - 1 if pads_less_than_kernel else k for k in kernel]
    pads = [b.integer(0, limit) for limit in most * 2]
    if auto_pad is None and b.chance(0.7):
        attributes["pads"] = pads if b.chance(0.5) else [k // 2 for k in kernel] * 2
    given = attributes.get("pads", [0] * 2 * rank)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        room = [sizes[i] + given[i] + given[i + rank] for i in range(rank)]
        kernel = [max(1, min(kernel[i], (room[i] - 1) // dilations[i] + 1)) for i in range(rank)]
    return {"kernel_shape": kernel, **attributes}
