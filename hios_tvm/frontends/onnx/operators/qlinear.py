"""Quantized operators of the domain com.microsoft, which `onnxruntime.quantization` writes.

Each is an operator of real numbers between dequantized operands and a quantized result, which
passes compute with integers.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators import (
    arithmetic,
    nonlinearities,
    ordering,
    pooling,
    products,
    reductions,
    shapes,
)
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.onnx.operators.quantized import (
    dequantized,
    dynamic_quantize_linear,
    matmul_integer,
    quantized,
    real_bias,
)
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of


def _real(call: OperatorCall, index: int, axis: int = 1) -> relax.Expr:
    """The tensor at `index`, dequantized by the scale and zero point that follow it."""
    scale, zero = call.tensor(index + 1), call.optional_tensor(index + 2)
    return dequantized(call, call.tensor(index), scale, zero, axis)


def _result(call: OperatorCall, y: Value, index: int) -> Value:
    """Quantize by the scale at `index` and the zero point after it, which may be left out."""
    assert isinstance(y, relax.Expr)
    zero = call.optional_tensor(index + 1)
    if zero is None:
        zero = constant(0, dtype_of(call.tensor(0)))
    return quantized(call, call.emit(y), call.tensor(index), zero)


def _unary(operator: Converter) -> Converter:
    """Inputs: a tensor, its scale and zero point; those of the result."""

    def convert(call: OperatorCall) -> Value:
        result = operator(replace(call, arguments=(_real(call, 0),)))
        assert not isinstance(result, list)
        return _result(call, result, 3)

    return convert


def _binary(operator: Converter) -> Converter:
    """Inputs: two tensors, each with its scale and zero point; those of the result."""

    def convert(call: OperatorCall) -> Value:
        result = operator(replace(call, arguments=(_real(call, 0), _real(call, 3))))
        assert not isinstance(result, list)
        return _result(call, result, 6)

    return convert


def _pooling(operator: Converter) -> Converter:
    def pool(call: OperatorCall) -> Value:
        if not call.attributes.flag("channels_last"):
            result = operator(call)
            assert not isinstance(result, list)
            return result
        rank = len(shape_of(call.tensor(0)))
        first = call.permute(call.tensor(0), [0, rank - 1, *range(1, rank - 1)])
        result = operator(replace(call, arguments=(first,)))
        assert isinstance(result, relax.Expr)
        return call.permute(call.emit(result), [0, *range(2, rank), 1])

    return _unary(pool)


def _softmax(call: OperatorCall) -> Value:
    return _unary(
        lambda inner: ordering.OPERATORS["Softmax"](
            replace(inner, version=call.attributes.integer("opset", call.version))
        )
    )(call)


def qlinear_concat(call: OperatorCall) -> Value:
    """Inputs: scale and zero point of the result; tensors, each with its own."""
    parts = tuple(_real(call, i) for i in range(2, len(call.arguments), 3))
    joined = shapes.OPERATORS["Concat"](replace(call, arguments=parts))
    assert isinstance(joined, relax.Expr)
    return quantized(call, call.emit(joined), call.tensor(0), call.tensor(1))


def qlinear_where(call: OperatorCall) -> Value:
    """Inputs: a condition; two tensors, each with scale and zero point; those of the result."""
    chosen = relax.op.where(call.tensor(0), _real(call, 1), _real(call, 4))
    return quantized(call, call.emit(chosen), call.tensor(7), call.tensor(8))


def qgemm(call: OperatorCall) -> Value:
    """As `Gemm`; the bias has the scale of the product, and no output scale means floats."""
    weight_axis = 0 if call.attributes.flag("transB") else 1
    arguments: list[Value] = [_real(call, 0), _real(call, 3, weight_axis)]
    alpha = call.attributes.number("alpha", 1.0)
    if call.argument(6) is not None:
        bias = real_bias(call, call.tensor(6), call.tensor(1), call.tensor(4))
        if alpha != 1.0:
            bias = call.emit(relax.op.multiply(bias, constant(alpha, "float32")))
        arguments.append(bias)
    result = products.OPERATORS["Gemm"](replace(call, arguments=tuple(arguments)))
    assert isinstance(result, relax.Expr)
    return result if call.argument(7) is None else _result(call, result, 7)


def matmul_integer_to_float(call: OperatorCall) -> Value:
    """Inputs: two matrices, their scales, their zero points; a bias of real numbers."""
    left, right, left_scale, right_scale = (call.tensor(i) for i in range(4))
    zeros = call.argument(4), call.argument(5)
    return _scaled_product(call, (left, right, *zeros), (left_scale, right_scale), 6)


def dynamic_quantize_matmul(call: OperatorCall) -> Value:
    """Inputs: a matrix of real numbers; a quantized one, its scale, its zero point; a bias."""
    quantized_left = dynamic_quantize_linear(replace(call, arguments=call.arguments[:1]))
    left, scale, zero = (call.emit(part) for part in quantized_left)
    operands = left, call.tensor(1), zero, call.argument(3)
    return _scaled_product(call, operands, (scale, call.tensor(2)), 4)


def _scaled_product(
    call: OperatorCall,
    operands: tuple[Value, ...],
    scales: tuple[relax.Expr, relax.Expr],
    bias: int,
) -> Value:
    sums = matmul_integer(replace(call, arguments=operands))
    assert isinstance(sums, relax.Expr)
    floats = call.cast(call.emit(sums), "float32")
    left, right = (_number(call, scale) for scale in scales)
    scale = call.emit(relax.op.multiply(left, right))
    result = call.emit(relax.op.multiply(floats, scale))
    if call.argument(bias) is None:
        return result
    return relax.op.add(result, call.tensor(bias))


def _number(call: OperatorCall, scale: relax.Expr) -> relax.Expr:
    return call.reshape(scale, []) if np.prod(shape_of(scale)) == 1 else scale


_UNARY: Mapping[str, Converter] = {
    "QLinearLeakyRelu": nonlinearities.OPERATORS["LeakyRelu"],
    "QLinearReduceMean": reductions.OPERATORS["ReduceMean"],
    "QLinearSigmoid": nonlinearities.OPERATORS["Sigmoid"],
}
_POOLINGS: Mapping[str, Converter] = {
    "QLinearAveragePool": pooling.OPERATORS["AveragePool"],
    "QLinearGlobalAveragePool": pooling.OPERATORS["GlobalAveragePool"],
}

OPERATORS: Mapping[str, Converter] = {
    **{name: _unary(operator) for name, operator in _UNARY.items()},
    **{name: _pooling(operator) for name, operator in _POOLINGS.items()},
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "QGemm": qgemm,
    "QLinearAdd": _binary(arithmetic.OPERATORS["Add"]),
    "QLinearConcat": qlinear_concat,
    "QLinearMul": _binary(arithmetic.OPERATORS["Mul"]),
    "QLinearSoftmax": _softmax,
    "QLinearWhere": qlinear_where,
}
