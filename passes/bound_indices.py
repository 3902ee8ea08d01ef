"""A pass that keeps every access whose place depends on data inside of its tensor.

Shapes are static, so that most accesses are proven to be inside when they are written. One whose
index was read from a tensor is not: a wrong index would read, or overwrite, other memory of the
process. Unless the index is bounded already, it is clipped::

    y[i] = table[ids[i]]   ->   y[i] = table[max(min(ids[i], 99), 0)]

What a clipped index selects is not meant to be used: `CheckValues` tells the run that it was wrong.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule, Range, TensorLoad
from tvm.sym import Analyzer
from tvm.tirx import BufferStore, Expr, IntImm, Stmt

from hios_tvm.passes.tir_trees import nodes_of


@tvm.transform.module_pass(opt_level=0, name="BoundIndices")
class BoundIndices:
    """Clip indices that depend on data, in all kernels."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        mod = mod.clone()
        for var, func in list(mod.functions_items()):
            if isinstance(func, tirx.PrimFunc):
                mod[var] = func.with_body(_bounded(func.body))
        return mod


def _bounded(body: Stmt) -> Stmt:
    """Return the body of a kernel with all accesses inside of their tensors."""
    variables = _Variables(body)

    def load(access: TensorLoad) -> Expr:
        indices = variables.clipped(access.indices, access.source)
        return access if indices is None else tirx.BufferLoad(access.source, indices)

    def store(access: BufferStore) -> Stmt:
        indices = variables.clipped(access.indices, access.buffer)
        return access if indices is None else BufferStore(access.buffer, access.value, indices)

    return tvm_ffi.structural_map(body, [(TensorLoad, load), (BufferStore, store)])


class _Variables:
    """What is known of the variables of a kernel: their ranges, or that they depend on data."""

    def __init__(self, body: Stmt) -> None:
        self._analyzer = Analyzer()
        self._from_data: set[tirx.Var] = set()
        for loop in reversed(nodes_of(body, tirx.For)):  # outer loops first
            self._bind(loop.loop_var, Range.from_min_extent(loop.min, loop.extent))
        for block in reversed(nodes_of(body, s_tir.SBlock)):
            for axis in block.iter_vars:
                self._bind(axis.var, axis.dom)
        for binding in nodes_of(body, tirx.Bind, tirx.Let):
            if self._depends_on_data(binding.value):
                self._from_data.add(binding.var)

    def clipped(self, indices: Sequence[Expr], tensor: tirx.Var) -> list[Expr] | None:
        """Return `indices` of `tensor` inside of it; None where they are already."""
        shape = tensor.shape
        inside = [self._clip(*pair) for pair in zip(indices, shape, strict=True)]
        return None if all(map(operator.is_, inside, indices)) else inside

    def _clip(self, index: Expr, extent: Expr) -> Expr:
        if not isinstance(extent, IntImm) or not self._depends_on_data(index):
            return index
        bound = self._analyzer.const_int_bound(index)
        if bound.min_value >= 0 and bound.max_value < int(extent):
            return index
        last, first = (tirx.const(value, index.ty) for value in (int(extent) - 1, 0))
        return tirx.max(tirx.min(index, last), first)

    def _bind(self, var: tirx.Var, domain: Range) -> None:
        if self._depends_on_data(domain.min) or self._depends_on_data(domain.extent):
            self._from_data.add(var)
        else:
            self._analyzer.bind(var, domain)

    def _depends_on_data(self, value: Expr) -> bool:
        return any(
            isinstance(node, TensorLoad) or node in self._from_data
            for node in nodes_of(value, TensorLoad, tirx.Var)
        )
