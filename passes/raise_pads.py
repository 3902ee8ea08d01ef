"""A pass that turns kernels that pad back into operators.

TVM's ONNX frontend emits Pad as a call of a kernel; `ChannelsLast` can change the layout of an
operator, `relax.nn.pad`, only.
"""

from collections.abc import Sequence

import tvm
from tvm import relax, s_tir, tirx
from tvm.ir import Call, IRModule, TensorLoad

from hios_tvm.passes.dataflow import Rewriter, operator_name, rewrite_main
from hios_tvm.passes.schedule_kernels import has_root_block
from hios_tvm.passes.tir_trees import is_choice


@tvm.transform.module_pass(opt_level=0, name="RaisePads")
class RaisePads:
    """Replace calls of kernels that pad with a constant by `relax.nn.pad`."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        def rewrite(_rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            if operator_name(value) != "relax.call_tir" or len(value.args[1].fields) != 1:
                return value
            raised = _raised(value.args[1].fields[0], mod[value.args[0]])
            return value if raised is None else raised

        return rewrite_main(mod, rewrite)


def _raised(data: relax.Expr, kernel: tirx.PrimFunc) -> Call | None:
    """Return what `kernel` computes as ``pad(data)``, or None if it is anything else."""
    if not has_root_block(kernel):
        return None
    sch = s_tir.Schedule(kernel)
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if len(blocks) != 1 or len(kernel.params) != 2:
        return None
    block = sch.get(blocks[0])
    store = block.body
    value = store.value if isinstance(store, tirx.BufferStore) else None
    if not is_choice(value):
        return None
    _, inside, fill = value.args
    if not isinstance(inside, TensorLoad) or not isinstance(fill, tirx.FloatImm):
        return None
    before = _offsets(inside.indices, [it.var for it in block.iter_vars])
    if before is None:
        return None
    sizes = zip(kernel.params[1].shape, kernel.params[0].shape, before, strict=True)
    after = [int(padded) - int(size) - first for padded, size, first in sizes]
    if min(before + after) < 0:
        return None
    widths = [width for pair in zip(before, after, strict=True) for width in pair]
    return relax.op.nn.pad(data, widths, "constant", fill.value)


def _offsets(indices: Sequence[tirx.Expr], axes: Sequence[tirx.Var]) -> list[int] | None:
    """Return the constants ``axes - indices``, or None if one is not constant."""
    offsets = []
    for index, axis in zip(indices, axes, strict=True):
        offset = tvm.sym.Analyzer().simplify(axis - index)
        if not isinstance(offset, tirx.IntImm):
            return None
        offsets.append(int(offset))
    return offsets
