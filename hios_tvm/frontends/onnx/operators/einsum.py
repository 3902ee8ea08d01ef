"""Einstein summation, by transpositions and matrix products."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import relax

from hios_tvm.frontends.onnx.operators.call import OperatorCall, Value
from hios_tvm.frontends.onnx.operators.precision import widened
from hios_tvm.frontends.tensors import dtype_of, shape_of


@dataclass(frozen=True)
class _Labeled:
    """A tensor, and a label for each of its dimensions; no label occurs twice."""

    tensor: relax.Expr
    labels: str

    def extent(self, label: str) -> int:
        return shape_of(self.tensor)[self.labels.index(label)]


def einsum(call: OperatorCall) -> Value:
    """Sum products of elements with equal labels over all labels that are not in the result."""
    tensors = [widened(call, tensor) for tensor in call.tensors()]
    dtype = dtype_of(call.tensor(0))
    terms, result = _parsed(call.attributes.text("equation"), [len(shape_of(t)) for t in tensors])
    extents = _extents(terms, tensors)
    operands = [
        _Labeled(call.emit(_diagonal(call, tensor, term)), "".join(dict.fromkeys(term)))
        for tensor, term in zip(tensors, terms, strict=True)
    ]
    first, *rest = operands
    for i, other in enumerate(rest):
        needed = set(result).union(*(later.labels for later in rest[i + 1 :]))
        first = _contracted(call, first, other, needed, extents)
    first = _summed(call, first, set(result))
    tensor = call.permute(first.tensor, [first.labels.index(label) for label in result])
    tensor = call.broadcast(tensor, [extents[label] for label in result])
    return call.cast(tensor, dtype)


def _parsed(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of the operands and of the result; digits stand for what an ellipsis covers."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"the equation {equation!r} is not one of {len(ranks)} tensors")
    covered = [
        rank - len(term.replace("...", "")) if "..." in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    widest = max(covered)
    if widest > 10:
        raise ValueError("an ellipsis cannot stand for more than 10 dimensions")
    digits = "0123456789"[:widest]
    labels = [
        term.replace("...", digits[widest - count :] if count else "")
        for term, count in zip(terms, covered, strict=True)
    ]
    if any(len(label) != rank for label, rank in zip(labels, ranks, strict=True)):
        raise ValueError(
            f"the equation {equation!r} does not fit tensors of {list(ranks)} dimensions"
        )
    if not arrow:
        every = "".join(labels)
        once = (label for label in sorted(set(every)) if every.count(label) == 1)
        return labels, digits + "".join(label for label in once if label not in digits)
    result = right.replace("...", digits)
    unknown = set(result) - set("".join(labels))
    if unknown or len(set(result)) < len(result):
        raise ValueError(f"the result of the equation {equation!r} has labels that do not fit")
    return labels, result


def _extents(terms: Sequence[str], tensors: Sequence[relax.Expr]) -> dict[str, int]:
    """Extent of each label; dimensions of extent 1 broadcast."""
    extents: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for label, extent in zip(term, shape_of(tensor), strict=True):
            known = extents.get(label, 1)
            if 1 not in (known, extent) and known != extent:
                raise ValueError(f"dimensions of {known} and {extent} have the label {label!r}")
            extents[label] = extent if known == 1 else known
    return extents


def _diagonal(call: OperatorCall, tensor: relax.Expr, term: str) -> relax.Expr:
    """Elements at equal positions along dimensions of one label."""
    labels = "".join(dict.fromkeys(term))
    if labels == term:
        return tensor
    sizes = [shape_of(tensor)[term.index(label)] for label in labels]
    if any(shape_of(tensor)[i] != sizes[labels.index(label)] for i, label in enumerate(term)):
        raise ValueError(f"dimensions of one label differ in a tensor labeled {term!r}")
    places = [labels.index(label) for label in term]
    return call.elements(sizes, lambda at, x: x(*(at[place] for place in places)), tensor)


def _summed(call: OperatorCall, operand: _Labeled, kept: set[str]) -> _Labeled:
    """Sum over all labels but those `kept`."""
    axes = [axis for axis, label in enumerate(operand.labels) if label not in kept]
    if not axes:
        return operand
    labels = "".join(label for label in operand.labels if label in kept)
    return _Labeled(call.emit(relax.op.sum(operand.tensor, axes, False)), labels)


def _contracted(
    call: OperatorCall,
    left: _Labeled,
    right: _Labeled,
    needed: set[str],
    extents: Mapping[str, int],
) -> _Labeled:
    """The product of two operands, summed over the labels that nothing else needs."""
    left = _summed(call, left, needed | set(right.labels))
    right = _summed(call, right, needed | set(left.labels))
    shared = [label for label in left.labels if label in right.labels]
    if any(left.extent(label) != right.extent(label) for label in shared):
        kept = {label: extents[label] for label in shared}
        left, right = (
            _Labeled(call.broadcast(side.tensor, list((_sizes(side) | kept).values())), side.labels)
            for side in (left, right)
        )
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    rows = [label for label in left.labels if label not in shared]
    columns = [label for label in right.labels if label not in shared]
    matrices = call.emit(
        relax.op.matmul(
            _matrices(call, left, batch, rows, inner), _matrices(call, right, batch, inner, columns)
        )
    )
    labels = [*batch, *rows, *columns]
    sides = {**_sizes(right), **_sizes(left)}
    return _Labeled(call.reshape(matrices, [sides[label] for label in labels]), "".join(labels))


def _sizes(operand: _Labeled) -> dict[str, int]:
    return dict(zip(operand.labels, shape_of(operand.tensor), strict=True))


def _matrices(
    call: OperatorCall,
    operand: _Labeled,
    batch: Sequence[str],
    rows: Sequence[str],
    columns: Sequence[str],
) -> relax.Expr:
    """The operand as a stack of matrices, with these labels for their dimensions."""
    order = [operand.labels.index(label) for label in (*batch, *rows, *columns)]
    sizes = [
        int(np.prod([operand.extent(label) for label in group], dtype=np.int64))
        for group in (rows, columns)
    ]
    stack = prod(operand.extent(label) for label in batch)
    return call.reshape(call.permute(operand.tensor, order), [*([stack] if batch else []), *sizes])
