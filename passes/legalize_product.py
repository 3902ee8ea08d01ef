"""Legalization of products of two matrices that are both computed, as in attention."""

from __future__ import annotations

import tvm
from tvm import relax, te, tirx
from tvm.ir import Call

from hios_tvm.passes.cpu_rules.register_tile import choose_tile
from hios_tvm.passes.kernel_shapes import OUT_ELEMENTWISE_FUSABLE, PRODUCT, ProductShape
from hios_tvm.passes.targets import vector_lanes, vector_registers

__all__ = ["legalize_product"]


def legalize_product(
    builder: relax.BlockBuilder, call: Call, target: tvm.target.Target
) -> relax.Expr | None:
    """Return a product for the rule of products, or None for types and shapes that it lacks."""
    shape = _product_shape(call, target)
    if shape is None:
        return None
    return builder.call_te(
        lambda a, b: _product(a, b, shape),
        *call.args,
        primfunc_name_hint="matmul",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def _product_shape(call: Call, target: tvm.target.Target) -> ProductShape | None:
    types = [str(value.ty.dtype.dtype) for value in (*call.args, call)]
    left, right = ([int(extent) for extent in arg.ty.shape] for arg in call.args)
    if types != ["float32"] * 3 or len(left) < 2 or len(right) != len(left):
        return None
    if left[:-2] != right[:-2] or 0 in left + right:
        return None
    rows, inner, columns = left[-2], left[-1], right[-1]
    tile = choose_tile(
        rows, columns, inner, lanes=vector_lanes(target), registers=vector_registers(target)
    )
    return ProductShape(
        batch=tuple(left[:-2]),
        rows=rows,
        inner=inner,
        columns=columns,
        pixels=tile.pixels,
        vectors=tile.vectors,
        lanes=tile.lanes,
    )


def _product(left: te.Tensor, right: te.Tensor, shape: ProductShape) -> te.Tensor:
    inner = te.reduce_axis((0, shape.inner), "inner")

    def element(*index: tirx.Var) -> tirx.Expr:
        *batch, row, column = index
        return te.sum(left[(*batch, row, inner)] * right[(*batch, inner, column)], axis=[inner])

    return te.compute(
        (*shape.batch, shape.rows, shape.columns),
        element,
        name="matmul",
        attrs={PRODUCT: shape.to_annotation()},
    )
