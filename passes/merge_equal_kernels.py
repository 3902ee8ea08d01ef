"""A pass that makes equal kernels one function, which is scheduled and compiled once."""

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar, IRModule

from hios_tvm.passes.dataflow import Rewriter, rewrite_main


@tvm.transform.module_pass(opt_level=0, name="MergeEqualKernels")
class MergeEqualKernels:
    """Redirect calls of structurally equal `PrimFunc`s to the first of them."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        representative = _representatives(mod)

        def redirect(_rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            if not isinstance(value, Call):
                return value
            args = [representative.get(arg, arg) for arg in value.args]
            return Call(value.op, args, value.attrs, value.ty_args, value.span)

        return rewrite_main(mod, redirect)


def _representatives(mod: IRModule) -> dict[GlobalVar, GlobalVar]:
    """Map each kernel that is structurally equal to an earlier one to the first such kernel."""
    buckets: dict[int, list[tuple[GlobalVar, tirx.PrimFunc]]] = {}
    representative = {}
    for var, func in mod.functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        anonymous = func.without_attr("global_symbol")
        bucket = buckets.setdefault(tvm_ffi.structural_hash(anonymous), [])
        for other_var, other in bucket:
            if tvm_ffi.structural_equal(anonymous, other):
                representative[var] = other_var
                break
        else:
            bucket.append((var, anonymous))
    return representative
