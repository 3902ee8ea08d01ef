"""A pass that stores activations in half precision where all that read them round them to it.

Tensor cores multiply in half precision: both factors of a product are rounded when they are read.
A tensor that is a factor of products, and nothing else, may as well be rounded when it is written,
with the same results and half the bytes::

    b = relu(conv2d(a, w))     # becomes    b = float16(relu(conv2d(a, w)))
    c = conv2d(b, v)           #            c = conv2d(float32(b), v)

It runs on kernels, for networks on GPUs alone. What sums straight into its output is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import cache

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar, IRModule, TensorLoad

from hios_tvm.passes.dataflow import Rewrite, Rewriter, bindings, operator_name, rewrite_main
from hios_tvm.passes.tir_trees import nodes_of

_HALF = "float16"

Factors = Callable[[tirx.PrimFunc], Collection[int]]
"""Returns which parameters of a kernel are rounded to half precision wherever it reads them."""


@tvm.transform.module_pass(opt_level=0, name="HalfActivations")
class HalfActivations:
    """Store what only `factors` of kernels read in half precision."""

    def __init__(self, factors: Factors) -> None:
        self.factors = factors

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        found = _only_factors(mod, self.factors)
        return rewrite_main(mod, _narrowing(mod, found)) if found else mod


def narrowed(func: tirx.PrimFunc, places: Collection[int]) -> tirx.PrimFunc:
    """Return `func` whose parameters at `places` are of half precision, in and out."""
    new = {
        param: tirx.decl_buffer(param.shape, _HALF, param.name, layout=None)
        for i, param in enumerate(func.params)
        if i in places
    }
    halves = set(new.values())

    def load(access: TensorLoad) -> tirx.Expr:
        if access.source not in halves:
            return access
        return tirx.Cast("float32", tirx.BufferLoad(access.source, list(access.indices)))

    def store(access: tirx.BufferStore) -> tirx.Stmt:
        if access.buffer not in halves:
            return access
        return tirx.BufferStore(access.buffer, tirx.Cast(_HALF, access.value), access.indices)

    def renamed(var: tirx.Var) -> tirx.Var:
        return new.get(var, var)

    rules = [(tirx.Var, renamed), (TensorLoad, load), (tirx.BufferStore, store)]
    params = [new.get(param, param) for param in func.params]
    body = tvm_ffi.structural_map(func.body, rules)
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _only_factors(mod: IRModule, factors: Factors) -> set[relax.Var]:
    """Return the tensors of `main` that are rounded wherever they are read."""
    known = cache(lambda kernel: frozenset(factors(mod[kernel])))
    candidates: set[relax.Var] = set()
    read: Counter[relax.Var] = Counter()
    rounded: Counter[relax.Var] = Counter()
    for binding in bindings(mod["main"]):
        value = binding.value
        read.update(relax.analysis.free_vars(value))
        if operator_name(value) != "relax.call_tir":
            continue
        kernel, arguments = value.args[0], list(value.args[1].fields)
        at: dict[relax.Expr, set[int]] = {}
        for i, argument in enumerate(arguments):
            at.setdefault(argument, set()).add(i)
        rounded.update(a for a, places in at.items() if places <= known(kernel))
        if _writes_floats(value) and _ends_element_wise(mod[kernel]):
            candidates.add(binding.var)
    read.update(relax.analysis.free_vars(mod["main"].body.body))
    return {var for var in candidates if read[var] and read[var] == rounded[var]}


def _writes_floats(call: Call) -> bool:
    ty = call.ty
    return isinstance(ty, relax.TensorType) and str(ty.dtype.dtype) == "float32"


def _ends_element_wise(func: tirx.PrimFunc) -> bool:
    """Whether the only output is written once, and never read: it holds no sums on the way."""
    output = func.params[-1]
    stores = [s for s in nodes_of(func.body, tirx.BufferStore) if s.buffer.same_as(output)]
    loads = [x for x in nodes_of(func.body, TensorLoad) if x.source.same_as(output)]
    return len(stores) == 1 and not loads


def _narrowing(mod: IRModule, found: Collection[relax.Var]) -> Rewrite:
    """Return what lets calls read and write the tensors that were `found` in half precision."""
    versions: dict[tuple[GlobalVar, frozenset[int]], GlobalVar] = {}

    def narrow(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
        if operator_name(value) != "relax.call_tir":
            return value
        kernel, arguments = value.args[:2]
        fields = list(arguments.fields)
        places = {i for i, field in enumerate(fields) if str(field.ty.dtype) == _HALF}
        places = {i for i in places if str(mod[kernel].params[i].dtype) != _HALF}
        is_half = rewriter.binding.var in found
        if is_half:
            places.add(len(fields))
        if not places:
            return value
        key = (kernel, frozenset(places))
        if key not in versions:
            func = narrowed(mod[kernel], places)
            versions[key] = rewriter.builder.add_func(func, kernel.name_hint)
        ty = relax.TensorType(value.ty.shape, _HALF) if is_half else value.ty
        return relax.op.call_tir(versions[key], arguments, ty)

    return narrow
