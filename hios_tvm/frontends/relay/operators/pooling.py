"""Poolings over windows, over everything, and to a given size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.operators.convolution import SPATIAL, padding
from hios_tvm.frontends.relay.operators.layouts import layout_attribute, to_layout
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import shape_of


def max_pool(rank: int) -> Converter:
    function = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
    return _any_layout(rank, lambda call, x: function[rank](x, **_window(call, rank)))


def average_pool(rank: int) -> Converter:
    function = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}

    def convert(call: OperatorCall, x: relax.Expr) -> relax.Expr:
        include = call.attributes.flag("count_include_pad")
        return function[rank](x, **_window(call, rank), count_include_pad=include)

    return _any_layout(rank, convert)


def _any_layout(rank: int, pool: Callable[[OperatorCall, relax.Expr], relax.Expr]) -> Converter:
    """Relax pools channels-first and channels-last; other layouts come from there."""

    def convert(call: OperatorCall) -> Value:
        layout = layout_attribute(call, "layout", "NC" + SPATIAL[rank])
        target = _pooled_layout(call, rank)
        result = call.emit(pool(call, to_layout(call, call.tensor(0), layout, target)))
        return to_layout(call, result, target, layout_attribute(call, "out_layout", layout))

    return convert


def _pooled_layout(call: OperatorCall, rank: int) -> str:
    last = f"N{SPATIAL[rank]}C"
    return last if call.attributes.value("layout") == last else "NC" + SPATIAL[rank]


def _window(call: OperatorCall, rank: int) -> dict[str, Any]:
    attributes = call.attributes
    options: dict[str, Any] = {"layout": _pooled_layout(call, rank), "padding": padding(call, rank)}
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

    def convert(call: OperatorCall, x: relax.Expr) -> relax.Expr:
        layout = _pooled_layout(call, rank)
        return function(x, [layout.index(axis) for axis in SPATIAL[rank]], True)

    return _any_layout(rank, convert)


def adaptive_pool(rank: int, kind: str) -> Converter:
    """Pooling to `output_size`, with windows of nearly equal sizes; `kind` is avg or max."""
    average = {
        1: relax.op.nn.adaptive_avg_pool1d,
        2: relax.op.nn.adaptive_avg_pool2d,
        3: relax.op.nn.adaptive_avg_pool3d,
    }
    general = {1: topi.nn.adaptive_pool1d, 2: topi.nn.adaptive_pool, 3: topi.nn.adaptive_pool3d}

    def convert(call: OperatorCall, data: relax.Expr) -> relax.Expr:
        layout = _pooled_layout(call, rank)
        sizes = call.attributes.optional_integers("output_size") or [
            shape_of(data)[layout.index(axis)] for axis in SPATIAL[rank]
        ]
        sizes = sizes * rank if len(sizes) == 1 else sizes
        if len(sizes) != rank or min(sizes) < 1:
            raise call.error(f"output_size {sizes} does not fit {rank} dimensions")
        if kind == "avg":
            return average[rank](data, sizes, layout=layout)
        return call.compute(general[rank], data, tuple(sizes), kind, layout)

    return _any_layout(rank, convert)
