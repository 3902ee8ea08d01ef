"""Operators that add borders, or take them away."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value, normalized_axes
from hios_tvm.frontends.tensors import array_of, constant, dtype_of, shape_of

Widths: TypeAlias = list[tuple[int, int]]
"""Elements before and after each dimension; negative ones are cut off."""

MODES = ("constant", "reflect", "edge", "wrap")


def pad(call: OperatorCall) -> Value:
    """Widths and value are attributes before version 11, and inputs since."""
    data, attributes = call.tensor(0), call.attributes
    mode = attributes.choice("mode", MODES[:3] if call.version < 19 else MODES, "constant")
    if call.version < 11:
        widths = attributes.integers("paddings" if call.version < 2 else "pads")
        axes = None
        fill: relax.Expr | None = constant(attributes.number("value", 0.0), dtype_of(data))
    else:
        widths = call.integers(1, "its pads") or []
        axes = call.integers(3, "its axes") if call.version >= 18 else None
        fill = call.optional_tensor(2)
    if fill is None:
        fill = constant(0, dtype_of(data))
    return _padded(call, data, _pairs(widths, axes, len(shape_of(data))), mode, fill)


def _pairs(widths: Sequence[int], axes: list[int] | None, rank: int) -> Widths:
    """All widths before come first in ONNX."""
    axes = list(range(rank)) if axes is None else normalized_axes(axes, rank)
    if len(widths) != 2 * len(axes):
        raise ValueError(f"{len(widths)} pads do not fit {len(axes)} axes")
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(axes, widths, widths[len(axes) :], strict=False):
        pairs[axis] = (int(before), int(after))
    return pairs


def _padded(
    call: OperatorCall, data: relax.Expr, widths: Widths, mode: str, fill: relax.Expr
) -> relax.Expr:
    parts = {}
    for axis, (extent, (before, after)) in enumerate(zip(shape_of(data), widths, strict=True)):
        parts[axis] = range(max(0, -before), extent - max(0, -after))
        if extent + min(0, before) + min(0, after) < 0:
            raise ValueError(f"pads of {before} and {after} cut more than the extent {extent}")
    data = call.slice(data, parts)
    widths = [(max(0, before), max(0, after)) for before, after in widths]
    if not any(map(any, widths)):
        return data
    if mode == "constant":
        return _filled(call, data, widths, fill)
    return _repeated(call, data, widths, mode)


def _filled(call: OperatorCall, data: relax.Expr, widths: Widths, fill: relax.Expr) -> relax.Expr:
    value = array_of(fill)
    if value is not None and "float" in dtype_of(data) and np.isfinite(value).all():
        flat = [width for pair in widths for width in pair]
        return call.emit(relax.op.nn.pad(data, flat, "constant", float(value.reshape(-1)[0])))
    fill = call.cast(call.reshape(fill, []), dtype_of(data))
    sizes, result = shape_of(data), _padded_shape(data, widths)
    if 0 in sizes:
        return call.broadcast(fill, result)

    def element(at: tuple[tirx.Var, ...], data: te.Tensor, fill: te.Tensor) -> tirx.Expr:
        sources = [i - before for i, (before, _) in zip(at, widths, strict=True)]
        inside = [
            tirx.all(source >= 0, source < extent)
            for source, extent, pair in zip(sources, sizes, widths, strict=True)
            if any(pair)
        ]
        return tirx.if_then_else(tirx.all(*inside), data(*sources), fill())

    return call.elements(result, element, data, fill)


def _repeated(call: OperatorCall, data: relax.Expr, widths: Widths, mode: str) -> relax.Expr:
    """Fill borders with elements of the tensor."""
    sizes = shape_of(data)
    for extent, pair in zip(sizes, widths, strict=True):
        if extent == 0 and any(pair):
            raise ValueError(f"an empty dimension cannot be padded in mode {mode}")
    sources = [
        _source(mode, extent, pair) if any(pair) else None
        for extent, pair in zip(sizes, widths, strict=True)
    ]

    def element(at: tuple[tirx.Var, ...], data: te.Tensor) -> tirx.Expr:
        pairs = zip(at, sources, strict=True)
        return data(*(i if source is None else source(i) for i, source in pairs))

    return call.elements(_padded_shape(data, widths), element, data)


def _source(mode: str, extent: int, pair: tuple[int, int]) -> Callable[[Any], Any]:
    """Where the element at an index comes from."""
    before, last = pair[0], extent - 1
    if mode == "edge":
        return lambda i: tirx.max(0, tirx.min(i - before, last))
    if mode == "wrap":
        return lambda i: tirx.floormod(i - before, extent)
    if extent == 1:
        return lambda i: tirx.IntImm("int64", 0)
    if max(pair) <= last:  # one reflection at each side
        return lambda i: last - tirx.abs(last - tirx.abs(i - before))
    return lambda i: last - tirx.abs(last - tirx.floormod(i - before, 2 * last))


def _padded_shape(data: relax.Expr, widths: Widths) -> list[int]:
    return [extent + sum(pair) for extent, pair in zip(shape_of(data), widths, strict=True)]


def center_crop_pad(call: OperatorCall) -> Value:
    data = call.tensor(0)
    sizes = shape_of(data)
    wanted = call.integers(1, "the extents of its window") or []
    axes = normalized_axes(call.attributes.integers("axes", range(len(sizes))), len(sizes))
    if len(axes) != len(wanted) or min(wanted, default=0) < 0:
        raise ValueError(f"a window of {wanted} does not fit {len(axes)} axes")
    widths = [(0, 0)] * len(sizes)
    for axis, extent in zip(axes, wanted, strict=True):
        difference = extent - sizes[axis]
        # The odd element is cut off, or added, behind.
        before = difference // 2 if difference > 0 else -(-difference // 2)
        widths[axis] = (before, difference - before)
    return _padded(call, data, widths, "constant", constant(0, dtype_of(data)))


OPERATORS: Mapping[str, Converter] = {"CenterCropPad": center_crop_pad, "Pad": pad}
