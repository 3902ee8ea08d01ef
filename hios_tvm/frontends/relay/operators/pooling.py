"""Poolings over windows, over everything, and to a given size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.operators.convolution import SPATIAL, padding
from hios_tvm.frontends.relay.values import Value, shape_of

__all__ = ["adaptive_pool", "average_pool", "global_pool", "max_pool"]


def max_pool(rank: int) -> Converter:
    function = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
    return lambda call: function[rank](call.tensor(0), **_window(call, rank))


def average_pool(rank: int) -> Converter:
    function = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}

    def convert(call: OperatorCall) -> Value:
        include = call.attributes.flag("count_include_pad")
        return function[rank](call.tensor(0), **_window(call, rank), count_include_pad=include)

    return convert


def _window(call: OperatorCall, rank: int) -> dict[str, Any]:
    attributes = call.attributes
    options: dict[str, Any] = {"layout": _layout(call, rank), "padding": padding(call, rank)}
    for name, default in (("pool_size", None), ("strides", [1] * rank), ("dilation", [1] * rank)):
        sizes = attributes.integers(name, default)
        sizes = sizes * rank if len(sizes) == 1 else sizes
        if len(sizes) != rank or min(sizes) < 1:
            raise call.error(f"{name} {sizes} does not fit {rank} dimensions")
        options[name] = sizes
    options["ceil_mode"] = attributes.flag("ceil_mode")
    return options


def global_pool(rank: int, function: Callable[..., relax.Expr]) -> Converter:
    """`function` reduces all spatial axes."""

    def convert(call: OperatorCall) -> Value:
        layout = _layout(call, rank)
        return function(call.tensor(0), [layout.index(a) for a in SPATIAL[rank]], True)

    return convert


def adaptive_pool(rank: int, kind: str) -> Converter:
    """Pooling to `output_size`, with windows of nearly equal sizes; `kind` is avg or max."""
    average = {
        1: relax.op.nn.adaptive_avg_pool1d,
        2: relax.op.nn.adaptive_avg_pool2d,
        3: relax.op.nn.adaptive_avg_pool3d,
    }
    general = {1: topi.nn.adaptive_pool1d, 2: topi.nn.adaptive_pool, 3: topi.nn.adaptive_pool3d}

    def convert(call: OperatorCall) -> Value:
        data, layout = call.tensor(0), _layout(call, rank)
        sizes = call.attributes.optional_integers("output_size") or [
            shape_of(data)[layout.index(axis)] for axis in SPATIAL[rank]
        ]
        sizes = sizes * rank if len(sizes) == 1 else sizes
        if len(sizes) != rank or min(sizes) < 1:
            raise call.error(f"output_size {sizes} does not fit {rank} dimensions")
        if kind == "avg":
            return average[rank](data, sizes, layout=layout)
        return call.compute(general[rank], data, tuple(sizes), kind, layout)

    return convert


def _layout(call: OperatorCall, rank: int) -> str:
    first = "NC" + SPATIAL[rank]
    layout = call.attributes.text("layout", first)
    out_layout = call.attributes.text("out_layout", "")
    if sorted(layout) != sorted(first) or out_layout not in ("", layout):
        raise call.unsupported(f"with the layout {layout!r} to {out_layout!r}")
    return layout
