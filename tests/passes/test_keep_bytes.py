from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import op as R

from hios_tvm.passes.dataflow import bindings
from hios_tvm.passes.pipeline import lower_to_kernels


def number(value: float, dtype: str = "float32") -> relax.Expr:
    return relax.const(np.array(value, dtype))


def sum_of_two_products() -> IRModule:
    """Two convolutions of quantized tensors, added, as at the end of a residual block."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 8, 6, 6), "uint8"))

    def product(seed: int) -> relax.Expr:
        array = np.random.default_rng(seed).integers(-9, 9, (16, 8, 1, 1)).astype("int8")
        weight = R.dequantize(relax.const(array), number(0.5), number(0, "int8"))
        y = R.nn.conv2d(R.dequantize(x, number(0.5), number(0, "uint8")), weight)
        return R.quantize(y, number(0.25), number(9, "uint8"), out_dtype="uint8")

    with builder.function("main", [x]):
        with builder.dataflow():
            parts = (R.dequantize(product(i), number(0.25), number(9, "uint8")) for i in (1, 2))
            y = builder.emit(R.add(*parts))
            y = R.quantize(y, number(0.5), number(0, "uint8"), out_dtype="uint8")
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    return builder.get()


def test_a_sum_of_two_products_reads_bytes() -> None:
    mod = lower_to_kernels(sum_of_two_products(), for_cpus=True)
    lines = [line for line in bindings(mod["main"]) if isinstance(line.value, Call)]
    assert [str(line.var.ty.dtype) for line in lines] == ["uint8"] * len(lines)
    products = [line for line in lines if "integer_conv2d" in line.value.args[0].name_hint]
    assert len(products) == 2
    assert products[0].var in products[1].value.args[1].fields


def test_what_exponentials_are_computed_of_is_kept() -> None:
    """Else one expression holds all of the product's epilogue three times, without vectors."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((16, 8), "uint8"))
    array = np.random.default_rng(0).integers(-9, 9, (8, 16)).astype("int8")
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = R.dequantize(relax.const(array), number(0.5), number(0, "int8"))
            y = R.matmul(R.dequantize(x, number(0.5), number(0, "uint8")), weight)
            y = R.quantize(y, number(0.25), number(9, "uint8"), out_dtype="uint8")
            y = R.nn.gelu(R.dequantize(y, number(0.25), number(9, "uint8")))
            y = R.quantize(y, number(0.5), number(0, "uint8"), out_dtype="uint8")
            y = builder.emit_output(R.reshape(y, [4, 64]))
        builder.emit_func_output(y)
    mod = lower_to_kernels(builder.get(), for_cpus=True)
    lines = [line for line in bindings(mod["main"]) if isinstance(line.value, Call)]
    assert len(lines) == 2 or "reshape" in lines[2].value.args[0].name_hint
    assert [str(line.var.ty.dtype) for line in lines] == ["uint8"] * len(lines)
    assert "gelu" not in lines[0].value.args[0].name_hint
