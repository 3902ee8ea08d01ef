from __future__ import annotations

from structure import assert_becomes
from tvm import relax, te, tirx
from tvm.ir import IRModule

from hios_tvm.passes.merge_equal_kernels import MergeEqualKernels


def multiplication(factor: float, x: str = "x", y: str = "y") -> tirx.PrimFunc:
    a = te.placeholder((4,), "float32", name=x)
    b = te.compute((4,), lambda i: a[i] * tirx.const(factor, "float32"), name=y)
    return te.create_prim_func([a, b]).without_attr("global_symbol")


def calls(factors: dict[str, float], names: str) -> IRModule:
    """A module with a multiplication for each factor, whose `main` calls `names` in a row."""
    builder = relax.BlockBuilder()
    kernels = {name: builder.add_func(multiplication(f), name) for name, f in factors.items()}
    x = value = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            *first, last = names.split()
            for name in first:
                value = builder.emit(relax.call_tir(kernels[name], [value], x.ty))
            output = builder.emit_output(relax.call_tir(kernels[last], [value], x.ty))
        builder.emit_func_output(output)
    return builder.get()


def test_calls_of_equal_kernels_name_the_first() -> None:
    before = calls({"double": 2, "scale": 4, "triple": 3}, "double scale triple")
    before["scale"] = multiplication(2, "a", "b")  # the builder adds no kernel a second time
    expected = calls({"double": 2, "triple": 3}, "double double triple")
    assert_becomes(MergeEqualKernels(), before, expected)
