"""Operators of the domain com.microsoft, which ONNX Runtime's own tools write."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from tvm import relax

from hios_tvm.frontends.onnx.operators import (
    convolution,
    filling,
    indexing,
    padding,
    products,
    qlinear,
    quantized,
    transformers,
)
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import constant, dtype_of, shape_of

# --- Activations ---


def bias_gelu(call: OperatorCall) -> Value:
    return relax.op.nn.gelu(call.emit(relax.op.add(call.tensor(0), call.tensor(1))))


def fast_gelu(call: OperatorCall) -> Value:
    x, bias = call.tensor(0), call.optional_tensor(1)
    return relax.op.nn.gelu_tanh(x if bias is None else call.emit(relax.op.add(x, bias)))


def quick_gelu(call: OperatorCall) -> Value:
    x = call.tensor(0)
    alpha = constant(call.attributes.number("alpha", 1.702), dtype_of(x))
    gate = call.emit(relax.op.sigmoid(call.emit(relax.op.multiply(x, alpha))))
    return relax.op.multiply(x, gate)


# --- Products and convolutions with an activation ---


def fused_matmul(call: OperatorCall) -> Value:
    """A product of matrices, transposed or not, times a number."""
    attributes = call.attributes
    left, right = (
        _transposed(
            call,
            call.tensor(i),
            batch=attributes.flag(f"transBatch{side}"),
            matrix=attributes.flag(f"trans{side}"),
        )
        for i, side in enumerate("AB")
    )
    alpha = attributes.number("alpha", 1.0)
    result = call.emit(relax.op.matmul(left, right))
    if alpha == 1.0:
        return result
    return relax.op.multiply(result, constant(alpha, dtype_of(result)))


def _transposed(call: OperatorCall, x: relax.Expr, *, batch: bool, matrix: bool) -> relax.Expr:
    """With `batch` the first axis moves behind the others but the last; `matrix` swaps the last."""
    axes = list(range(len(shape_of(x))))
    if len(axes) < 2:
        return x
    if batch:
        axes = [*axes[1:-1], 0, axes[-1]]
    if matrix:
        axes[-2:] = axes[:-3:-1]
    return call.permute(x, axes)


def fused_gemm(call: OperatorCall) -> Value:
    attributes = call.attributes
    result = products.OPERATORS["Gemm"](call)
    kind = attributes.text("activation", "")
    defaults = _DEFAULTS.get(kind, (0.0, 0.0))
    parameters = [
        attributes.number(name, default)
        for name, default in zip(("activation_alpha", "activation_beta"), defaults, strict=True)
    ]
    attributes.ignore("activation_gamma")
    return _activated(call, result, kind, parameters)


def fused_conv(call: OperatorCall) -> Value:
    """A convolution, plus a tensor of its shape, with an activation."""
    attributes = call.attributes
    result = convolution.OPERATORS["Conv"](replace(call, arguments=call.arguments[:3]))
    if call.argument(3) is not None:
        result = relax.op.add(call.emit(result), call.tensor(3))
    kind = attributes.text("activation", "")
    parameters = attributes.numbers("activation_params", list(_DEFAULTS.get(kind, ())))
    return _activated(call, result, kind, parameters)


_DEFAULTS: Mapping[str, tuple[float, float]] = {"HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01, 0.0)}


def _activated(call: OperatorCall, x: Value, kind: str, parameters: list[float]) -> Value:
    if not kind:
        return x
    tensor = call.emit(x)
    simple: Mapping[str, Callable[[relax.Expr], relax.Expr]] = {
        "Relu": relax.op.nn.relu,
        "Sigmoid": relax.op.sigmoid,
        "Tanh": relax.op.tanh,
    }
    if kind in simple:
        return simple[kind](tensor)
    if kind == "LeakyRelu" and parameters:
        return relax.op.nn.leakyrelu(tensor, parameters[0])
    if kind == "Clip" and len(parameters) == 2:
        return relax.op.clip(tensor, *parameters)
    if kind == "HardSigmoid" and len(parameters) == 2:
        alpha, beta = (constant(value, dtype_of(tensor)) for value in parameters)
        line = call.emit(relax.op.add(call.emit(relax.op.multiply(tensor, alpha)), beta))
        return relax.op.clip(line, 0, 1)
    raise call.unsupported(f"the activation {kind!r} is not known; export it as a node")


def matmul_integer16(call: OperatorCall) -> Value:
    """16-bit numbers, summed with 32 bits."""
    left, right = (call.cast(call.tensor(i), "int32") for i in range(2))
    result = call.emit(relax.op.matmul(left, right))
    is_unsigned = all(dtype_of(call.tensor(i)) == "uint16" for i in range(2))
    return call.cast(result, "uint32" if is_unsigned else "int32")


# --- Operators of the standard in this domain ---

_STANDARD: Mapping[str, Mapping[str, Converter]] = {
    "DequantizeLinear": quantized.OPERATORS,
    "GatherND": indexing.OPERATORS,
    "Pad": padding.OPERATORS,
    "QuantizeLinear": quantized.OPERATORS,
    "Range": filling.OPERATORS,
    "Trilu": filling.OPERATORS,
}

OPERATORS: Mapping[str, Converter] = {
    **{name: family[name] for name, family in _STANDARD.items() if name in family},
    **qlinear.OPERATORS,
    **transformers.OPERATORS,
    "BiasGelu": bias_gelu,
    "FastGelu": fast_gelu,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "FusedMatMul": fused_matmul,
    "Gelu": lambda call: relax.op.nn.gelu(call.tensor(0)),
    "MatMulInteger16": matmul_integer16,
    "QuickGelu": quick_gelu,
    "TransposeMatMul": fused_matmul,
}
