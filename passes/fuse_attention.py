"""A pass that makes one kernel of attention: two products with a softmax between them.

::

    s = matmul(q, permute_dims(k))      # scores: a row for each query, a column for each key
    t = s * 0.125 + mask
    p = softmax(t)
    y = permute_dims(matmul(p, v))

becomes ``y = attention(q, k, mask, v)``, where `attention` is a Relax function of these operators.
`FuseTIR` makes one kernel of it, whose loops `hios_tvm.passes.cpu_rules.attention` writes for CPUs,
so that scores never leave the cache, and `hios_tvm.passes.gpu_rules.attention` for GPUs, where they
stay in shared memory, if a row of them fits. The function takes in

- what is computed of each score or weight by itself,
- reshapes, transpositions, slices and scalings of the operands, if nothing else reads their result,
- reshapes and transpositions of the result.

That kernel was never slower than several kernels, down to 16 queries and 16 keys.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, GlobalVar, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main
from hios_tvm.passes.legalize_product import product_shape
from hios_tvm.schema.kernel_shapes import ProductShape

_PRODUCT, _SOFTMAX = "relax.matmul", "relax.nn.softmax"

_ELEMENTWISE = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "divide", "isnan", "logical_not", "maximum", "minimum", "multiply", "subtract"),
        *("tanh", "where"),
    )
)
"""Operators on scores and on weights: scales, masks, limits, and zeros in place of NaN."""

_RESHAPES = ("relax.expand_dims", "relax.flatten", "relax.reshape", "relax.squeeze")
_TRANSPOSITION = "relax.permute_dims"
_MOVES = (*_RESHAPES, _TRANSPOSITION, "relax.broadcast_to", "relax.strided_slice")
_SCALINGS = ("relax.divide", "relax.multiply")


@tvm.transform.module_pass(opt_level=0, name="FuseAttention")
class FuseAttention:
    """Replace the operators of each attention by the call of a function that `FuseTIR` fuses.

    Shapes must be static, scores and weights of single precision. Where a further operator reads
    scores or weights, they have to be stored, and nothing is replaced; nor where there are more
    keys than `most_keys`.
    """

    def __init__(self, most_keys: int | None = None) -> None:
        self.most_keys = most_keys

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _Fusion(self.most_keys).rewrite)


@dataclass(frozen=True)
class _Group:
    """Operators that become a function: their results in order of computation."""

    calls: dict[relax.Var, Call]
    result: relax.Expr

    @property
    def operands(self) -> list[relax.Expr]:
        """What the function reads: variables and constant tensors."""
        read = [arg for call in (*self.calls.values(), self.result) for arg in call.args]
        outer = [arg for arg in read if arg not in self.calls]
        is_tensor = (relax.Var, GenericConst)
        return list(dict.fromkeys(arg for arg in outer if isinstance(arg, is_tensor)))

    def function(self) -> relax.Function:
        """Return the function of `operands`."""
        builder = relax.BlockBuilder()
        values = {
            operand: relax.Var(f"x{i}", operand.ty) for i, operand in enumerate(self.operands)
        }
        params = list(values.values())

        def moved(call: Call) -> Call:
            args = [values.get(arg, arg) for arg in call.args]
            return Call(call.op, args, call.attrs, call.ty_args, call.span)

        with builder.function("attention", params, attrs={"Primitive": 1}, private=True):
            with builder.dataflow():
                for var, call in self.calls.items():
                    values[var] = builder.emit(moved(call))
                result = builder.emit_output(moved(self.result))
            builder.emit_func_output(result)
        return builder.get()["attention"]


class _Fusion:
    """The rewriting of one module; it knows the groups by the functions that it has made."""

    def __init__(self, most_keys: int | None) -> None:
        self._most_keys = most_keys
        self._groups: dict[GlobalVar, _Group] = {}

    def rewrite(self, rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
        """Return the call of a function where `value` ends an attention."""
        name = operator_name(value)
        group = None
        if name == _PRODUCT:
            group = _attention(rewriter, value, self._most_keys)
        elif name in (*_RESHAPES, _TRANSPOSITION):
            group = self._longer(rewriter, value)
        if group is None:
            return value
        function = rewriter.builder.add_func(group.function(), "attention")
        self._groups[function] = group
        return Call(function, group.operands)

    def _longer(self, rewriter: Rewriter, move: Call) -> _Group | None:
        """Return an earlier group with a reshape or transposition of its result, which ends it."""
        var = move.args[0]
        call = rewriter.producer(var)
        if call is None or call.op not in self._groups or rewriter.uses(var) != 1:
            return None
        group = self._groups[call.op]
        return _Group({**group.calls, var: group.result}, move)


def _attention(rewriter: Rewriter, values: Call, most_keys: int | None) -> _Group | None:
    """Return the operators of the attention that ends with the product `values`."""
    shape = product_shape(values)
    if shape is None or (most_keys is not None and shape.inner > most_keys):
        return None
    to_softmax = _path(rewriter, values.args[0], _SOFTMAX, (shape.rows, shape.inner))
    if to_softmax is None:
        return None
    softmax = next(iter(to_softmax.values()))
    to_scores = _path(rewriter, softmax.args[0], _PRODUCT, (shape.rows, shape.inner))
    if to_scores is None or not _is_along_rows(softmax):
        return None
    scores = product_shape(next(iter(to_scores.values())))
    group = _Group(to_scores | to_softmax, values)
    if scores is None or not _is_one_attention(scores, shape) or not _is_closed(rewriter, group):
        return None
    return _with_moves_of_operands(rewriter, group)


def _path(
    rewriter: Rewriter, value: relax.Expr, first: str, matrix: tuple[int, int]
) -> dict[relax.Var, Call] | None:
    """Return the calls from the only one of operator `first` to `value`, in order.

    Those between are element-wise, or reshapes that keep the `matrix` of the last two dimensions.
    None if there are none or other ones.
    """
    found: dict[relax.Var, Call] = {}
    others: set[relax.Var] = set()
    ends: list[relax.Var] = []

    def leads_to(var: relax.Expr) -> bool:
        if var in found:
            return True
        call = rewriter.producer(var, (first, *_ELEMENTWISE, *_RESHAPES))
        if call is None or var in others:
            return False
        name = operator_name(call)
        if name == first:
            ends.append(var)
        elif _extents(call)[-2:] != list(matrix) or not any([leads_to(arg) for arg in call.args]):
            others.add(var)
            return False
        found[var] = call
        return True

    return found if leads_to(value) and len(ends) == 1 else None


def _is_along_rows(softmax: Call) -> bool:
    rank = len(_extents(softmax))
    return int(softmax.attrs.axis) % rank == rank - 1 and _dtype(softmax) == "float32"


def _is_one_attention(scores: ProductShape, values: ProductShape) -> bool:
    """Whether the product of `values` reads the rows that the product of `scores` writes."""
    return (math.prod(scores.batch), scores.rows, scores.columns) == (
        math.prod(values.batch),
        values.rows,
        values.inner,
    )


def _is_closed(rewriter: Rewriter, group: _Group) -> bool:
    """Whether nothing but the group reads its calls' results."""
    reads = _reads(group)
    return all(rewriter.uses(var) == reads[var] for var in group.calls)


def _reads(group: _Group) -> Counter[relax.Expr]:
    calls = (*group.calls.values(), group.result)
    return Counter(arg for call in calls for arg in call.args)


def _with_moves_of_operands(rewriter: Rewriter, group: _Group) -> _Group:
    """Return `group` with moves and scalings of its operands, which nothing else reads."""
    while True:
        reads = _reads(group)
        inner = [operand for operand in group.operands if rewriter.uses(operand) == reads[operand]]
        found = {operand: _move(rewriter, operand) for operand in inner}
        moves = {operand: call for operand, call in found.items() if call is not None}
        if not moves:
            return group
        group = _Group(moves | group.calls, group.result)


def _move(rewriter: Rewriter, operand: relax.Expr) -> Call | None:
    call = rewriter.producer(operand, (*_MOVES, *_SCALINGS))
    if call is None or operator_name(call) in _MOVES:
        return call
    x, scale = call.args
    is_scaled = _dtype(call) == "float32" and _is_single_constant(scale)
    # The product with constant weights that computes x would scale its result by the way
    producer = rewriter.producer(x)
    is_moved = producer is None or operator_name(producer) in _MOVES
    return call if is_scaled and is_moved else None


def _is_single_constant(value: relax.Expr) -> bool:
    array = constant_value(value)
    return array is not None and array.size == 1


def _extents(value: relax.Expr) -> list[int]:
    return [int(extent) for extent in value.ty.shape]


def _dtype(value: relax.Expr) -> str:
    return str(value.ty.dtype.dtype)
