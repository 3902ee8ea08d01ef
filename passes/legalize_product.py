"""Legalization of products of two matrices that are both computed, as in attention."""

from tvm import relax, te, tirx
from tvm.ir import Call

from hios_tvm.schema.kernel_shapes import OUT_ELEMENTWISE_FUSABLE, PRODUCT, ProductShape


def legalize_product(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a product for the rules of products, or None for types and shapes that they lack."""
    shape = product_shape(call)
    if shape is None:
        return None
    return builder.call_te(
        lambda a, b: _product(a, b, shape),
        *call.args,
        primfunc_name_hint="matmul",
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
    )


def product_shape(call: Call) -> ProductShape | None:
    types = [str(value.ty.dtype.dtype) for value in (*call.args, call)]
    left, right = ([int(extent) for extent in arg.ty.shape] for arg in call.args)
    if types != ["float32"] * 3 or len(left) < 2 or len(right) != len(left):
        return None
    if left[:-2] != right[:-2] or 0 in left + right:
        return None
    return ProductShape(batch=tuple(left[:-2]), rows=left[-2], inner=left[-1], columns=right[-1])


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
