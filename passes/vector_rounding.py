"""A pass that rounds to even in vectors.

TVM 0.27 computes its function for it, `nearbyint`, lane by lane. LLVM has the same in vectors, and
one instruction that rounds to an integer, if that has 32 bits.
"""

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule
from tvm.tirx import Expr


@tvm.transform.module_pass(opt_level=0, name="VectorRounding")
class VectorRounding:
    """Replace `nearbyint` of single precision, and conversions of it to ``int32``."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for var, func in list(mod.functions_items()):
            if isinstance(func, tirx.PrimFunc):
                body = tvm_ffi.structural_map(func.body, [(tirx.Cast, _integer)])
                mod[var] = func.with_body(tvm_ffi.structural_map(body, [(Call, _float)]))
        return mod


def _integer(cast: tirx.Cast) -> Expr:
    if str(cast.ty.dtype) != "int32" or not _rounds(cast.value):
        return cast
    return tirx.call_llvm_pure_intrin("int32", "llvm.lrint", cast.value.args[0])


def _float(call: Call) -> Expr:
    if not _rounds(call):
        return call
    return tirx.call_llvm_pure_intrin("float32", "llvm.nearbyint", call.args[0])


def _rounds(value: Expr) -> bool:
    """Whether `value` rounds a number of single precision."""
    is_call = isinstance(value, Call) and str(value.op.name) == "tirx.nearbyint"
    return is_call and str(value.ty.dtype) == "float32"
