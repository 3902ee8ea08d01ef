"""Pooling with all attributes."""

from __future__ import annotations

from typing import Any

from random_networks.builder import Builder
from random_networks.menu import pattern
from random_networks.windows import window


def _attributes(
    b: Builder, sizes: tuple[int, ...], *, dilates: bool, ceils: bool
) -> dict[str, Any]:
    attributes = window(b, sizes, dilates=dilates, pads_less_than_kernel=True)
    if ceils and b.chance(0.3):
        attributes["ceil_mode"] = b.integer(0, 1)
    return attributes


@pattern(weight=3)
def average_pool(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5)
    attributes = _attributes(b, x.shape[2:], dilates=b.opset >= 19, ceils=b.opset >= 10)
    if b.chance(0.5):
        attributes["count_include_pad"] = b.integer(0, 1)
    b.add("AveragePool", x, **attributes)


@pattern(weight=3)
def max_pool(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5)
    attributes = _attributes(b, x.shape[2:], dilates=b.opset >= 10, ceils=b.opset >= 10)
    if b.opset >= 8 and b.chance(0.2):
        if b.chance(0.5):
            attributes["storage_order"] = b.integer(0, 1)
        b.add_many("MaxPool", x, outputs=2, **attributes)
    else:
        b.add("MaxPool", x, **attributes)


@pattern(since=18)
def norm_pool(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5)
    attributes = _attributes(b, x.shape[2:], dilates=True, ceils=True)
    b.add("LpPool", x, p=b.one_of(1, 2, 3, None), **attributes)


@pattern(weight=0.5, until=17)
def norm_pool_before_18(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5)
    attributes = _attributes(b, x.shape[2:], dilates=False, ceils=False)
    b.add("LpPool", x, p=b.one_of(1, 2, 3, None), **attributes)


@pattern(weight=2)
def global_pool(b: Builder) -> None:
    x = b.pick(4, 4, 3, 5)
    operator = b.one_of("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    b.add(operator, x, p=b.one_of(1, 2, 3) if operator == "GlobalLpPool" else None)


@pattern(weight=0.5, since=9)
def pool_and_unpool(b: Builder) -> None:
    x = b.pick(4, where=lambda t: t.shape[2] % 2 == t.shape[3] % 2 == 0)
    window_of = {"kernel_shape": [2, 2], "strides": [2, 2]}
    y, indices = b.add_many("MaxPool", x, outputs=2, **window_of)
    b.add("MaxUnpool", y, indices, **window_of)
