"""Matrix products."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax, te, tirx

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.casts import converted
from hios_tvm.frontends.onnx.operators.einsum import einsum
from hios_tvm.frontends.onnx.operators.precision import is_float, widened
from hios_tvm.frontends.tensors import array_of, constant, constant_of, dtype_of, shape_of

MAX_DETERMINANT = 4
"""Rows of the largest matrix of which a determinant is written out: the terms are its factorial."""


def product(call: OperatorCall, left: relax.Expr, right: relax.Expr) -> relax.Expr:
    """The product of two tensors of matrices as NumPy's `matmul`, of the operands' type."""
    dtype = dtype_of(left)
    if dtype == "bfloat16":  # no processor that TVM knows multiplies them
        left, right = call.cast(left, "float32"), call.cast(right, "float32")
    if 0 in shape_of(left) + shape_of(right):
        empty = (np.empty(shape_of(tensor), np.int8) for tensor in (left, right))
        return constant(np.matmul(*empty), dtype)
    return call.cast(call.emit(relax.op.matmul(left, right)), dtype)


def gemm(call: OperatorCall) -> Value:
    """``alpha * left @ right + beta * bias``, where the bias broadcasts to the product."""
    attributes = call.attributes
    left, right, bias = call.tensor(0), call.tensor(1), call.optional_tensor(2)
    attributes.ignore("broadcast")  # up to opset 6; the bias broadcasts anyway
    if len(shape_of(left)) != 2 or len(shape_of(right)) != 2:
        raise ValueError("it multiplies matrices, of 2 dimensions")
    if attributes.flag("transA"):
        left = call.permute(left, [1, 0])
    if attributes.flag("transB"):
        right = call.permute(right, [1, 0])
    dtype = dtype_of(left)
    right = _scaled(call, right, attributes.number("alpha", 1.0))
    beta = attributes.number("beta", 1.0)
    if dtype_of(right) != dtype:
        left = call.cast(left, dtype_of(right))
    result = product(call, left, right)
    if bias is not None and beta != 0.0:
        bias = _scaled(call, bias, beta)
        wide = "float64" if "float64" in (dtype_of(bias), dtype_of(result)) else dtype
        result = call.emit(relax.op.add(call.cast(result, wide), call.cast(bias, wide)))
        if len(shape_of(bias)) > 2 or shape_of(result) != (shape_of(left)[0], shape_of(right)[1]):
            raise ValueError(f"its bias of shape {list(shape_of(bias))} does not fit the product")
    return converted(call, result, dtype)


def _scaled(call: OperatorCall, x: relax.Expr, factor: float) -> relax.Expr:
    """The product with a number; of weights right away, of integers as double if need be."""
    if factor == 1.0:
        return x
    dtype = dtype_of(x)
    if not is_float(dtype) and factor != int(factor):
        x, dtype = call.cast(x, "float64"), "float64"
    array = array_of(x)
    if array is not None:
        return constant_of(array * np.asarray(factor).astype(array.dtype))
    return call.emit(relax.op.multiply(x, constant(factor, dtype)))


def determinant(call: OperatorCall) -> Value:
    x = call.tensor(0)
    *batch, rows, columns = shape_of(x)
    if rows != columns:
        raise ValueError(f"it is of square matrices, not of {rows} x {columns}")
    if rows > MAX_DETERMINANT:
        raise call.unsupported(
            f"only determinants of up to {MAX_DETERMINANT} rows are computed, this has {rows}"
        )

    def element(at: tuple[tirx.Var, ...], t: te.Tensor) -> tirx.Expr:
        return _expanded(lambda i, j: t(*at, i, j), list(range(rows)), 0)

    return call.cast(call.elements(batch, element, widened(call, x)), dtype_of(x))


def _expanded(
    element: Callable[[int, int], tirx.Expr], columns: Sequence[int], row: int
) -> tirx.Expr:
    """The determinant of the rows from `row` on in these columns, by its first row."""
    if len(columns) == 1:
        return element(row, columns[0])
    total: tirx.Expr | None = None
    for i, column in enumerate(columns):
        others = [other for other in columns if other != column]
        term = element(row, column) * _expanded(element, others, row + 1)
        total = term if total is None else (total - term if i % 2 else total + term)
    return total


OPERATORS: Mapping[str, Converter] = {
    "Det": determinant,
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": lambda call: product(call, call.tensor(0), call.tensor(1)),
}
