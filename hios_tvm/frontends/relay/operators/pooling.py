"""Poolings over windows, over everything, and to a given size."""

from collections.abc import Callable
from typing import Any

from tvm import relax, topi

from hios_tvm.frontends.relay.operators.call import Converter, OperatorCall
from hios_tvm.frontends.relay.operators.convolution import SPATIAL, padding, sizes
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
    return {
        "layout": _pooled_layout(call, rank),
        "padding": padding(call, rank),
        "pool_size": sizes(call, "pool_size", rank),
        "strides": sizes(call, "strides", rank, 1),
        "dilation": sizes(call, "dilation", rank, 1),
        "ceil_mode": call.attributes.flag("ceil_mode"),
    }


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
        if call.attributes.optional_integers("output_size"):
            out = sizes(call, "output_size", rank)
        else:
            out = [shape_of(data)[layout.index(axis)] for axis in SPATIAL[rank]]
        if kind == "avg":
            return average[rank](data, out, layout=layout)
        return call.compute(general[rank], data, tuple(out), kind, layout)

    return _any_layout(rank, convert)
