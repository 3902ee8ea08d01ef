"""A pass that keeps heavy kernels from being fused with operators that broadcast their results.

`FuseOps` looks at the pattern of an operator and not at shapes. It fuses the gate of a
squeeze-and-excitation block with the multiplication of the image that it scales:

    g = conv2d(pooled, w)      # [1, 1, 1, C], one image of one pixel
    s = sigmoid(g)             # [1, 1, 1, C]
    y = multiply(x, s)         # [1, H, W, C]

A kernel of all three would compute `g` once and `s` once for each pixel, and has no loops that fit
both shapes. Such a multiplication gets the pattern of an injective operator, which `FuseOps` never
puts behind a convolution, a product or a pooling, but still joins with other injective ones.
"""

import tvm
from tvm import relax
from tvm.ir import Call, GlobalVar, IRModule

from hios_tvm.passes.dataflow import bindings, operator_name
from hios_tvm.schema.kernel_shapes import OUT_ELEMENTWISE_FUSABLE

_BROADCAST, _INJECTIVE = 1, 2  # TVM's kBroadcast and kInjective


@tvm.transform.module_pass(opt_level=0, name="LimitFusion")
class LimitFusion:
    """Mark kernels that broadcast a heavy kernel's result; runs right before `FuseOps`."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for kernel in _enlarging_kernels(mod):
            mod[kernel] = mod[kernel].with_attr("op_pattern", _INJECTIVE)
        return mod


def _enlarging_kernels(mod: IRModule) -> list[GlobalVar]:
    """Return the kernels that read a heavy kernel's result in another shape than their own."""
    behind_heavy: set[relax.Var] = set()  # results that would be fused into a heavy kernel
    found: dict[GlobalVar, None] = {}
    for binding in bindings(mod["main"]):
        call = binding.value
        if operator_name(call) != "relax.call_tir":
            continue
        kernel, arguments = call.args[0], call.args[1].fields
        pattern = int(mod[kernel].attrs["op_pattern"])
        heavy = [argument for argument in arguments if argument in behind_heavy]
        if pattern == OUT_ELEMENTWISE_FUSABLE:
            behind_heavy.add(binding.var)
        elif heavy and pattern <= _BROADCAST:
            if all(_shape(argument) == _shape(call) for argument in heavy):
                behind_heavy.add(binding.var)
            else:
                found[kernel] = None
    return list(found)


def _shape(value: relax.Expr | Call) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)
