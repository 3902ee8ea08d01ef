"""A pass that keeps some results of products in memory, as quantized tensors.

Of two products that are added, `FuseOps` puts the sum into the kernel of one, with all elementwise
operators before and behind it. The kernel of the other product also dequantizes its result, and
writes four times the bytes::

    a = uint8(...conv2d(x, v)...)              # one kernel with the next line, of float32
    p = dequantize(a)
    b = uint8(...conv2d(y, w)...)
    z = uint8(...(p + dequantize(b))...)

This pass hides `a` behind an operator that does nothing, so that `p` is computed where it is read.
So it does with what is rearranged, which `FuseOps` would rather fuse with the epilogue than that
with the product, and with what exponentials are computed of: TVM makes no vectors of their long
expressions where these contain all of a product's epilogue.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import tvm
from tvm import relax, tirx
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, bindings, operator_name, rewrite_main
from hios_tvm.passes.tir_trees import nodes_of
from hios_tvm.schema.kernel_shapes import OUT_ELEMENTWISE_FUSABLE

BARRIER = "relax.builtin.stop_lift_params"
"""An operator that returns its operand, and that nothing is fused across."""

_BROADCAST, _INJECTIVE = 1, 2  # TVM's kBroadcast and kInjective


@tvm.transform.module_pass(opt_level=0, name="KeepBytes")
class KeepBytes:
    """Mark quantized results that should be in memory; runs right before `FuseOperators`."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        kept = _kept(mod)
        if not kept:
            return mod

        def hide(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            if rewriter.binding.var not in kept:
                return value
            return relax.op.builtin.stop_lift_params(rewriter.emit(value))

        return rewrite_main(mod, hide)


@dataclass(frozen=True)
class _Chain:
    """Elementwise operators behind a product: where it is, and the last quantized result."""

    product: int
    quantized: relax.Var | None


def _kept(mod: IRModule) -> set[relax.Var]:
    """Return the quantized results of products that should be in memory."""
    uses: Counter[relax.Var] = Counter()
    chains: dict[relax.Var, _Chain] = {}
    found: set[relax.Var] = set()
    calls = [
        (place, binding.var, binding.value)
        for place, binding in enumerate(bindings(mod["main"]))
        if operator_name(binding.value) == "relax.call_tir"
    ]
    for _, _, call in calls:
        uses.update(field for field in call.args[1].fields if isinstance(field, relax.Var))
    for place, var, call in calls:
        pattern = int(mod[call.args[0]].attrs["op_pattern"])
        if pattern == OUT_ELEMENTWISE_FUSABLE:
            chains[var] = _Chain(place, None)
            continue
        read = [chains[field] for field in call.args[1].fields if field in chains]
        if pattern == _INJECTIVE:
            found.update(chain.quantized for chain in read if chain.quantized is not None)
        if not read or pattern > _BROADCAST or not isinstance(var.ty, relax.TensorType):
            continue
        last = max(read, key=lambda chain: chain.product)
        found.update(
            chain.quantized
            for chain in read
            if chain.product != last.product and chain.quantized is not None
        )
        if last.quantized is not None and _has_exponentials(mod[call.args[0]]):
            found.add(last.quantized)
            continue
        if uses[var] == 1:
            is_quantized = str(var.ty.dtype.dtype) == "uint8"
            chains[var] = _Chain(last.product, var if is_quantized else last.quantized)
    return found


def _has_exponentials(func: tirx.PrimFunc) -> bool:
    names = {str(getattr(call.op, "name", "")) for call in nodes_of(func.body, Call)}
    return bool(names & {f"tirx.{name}" for name in ("erf", "exp", "sigmoid", "tanh")})
