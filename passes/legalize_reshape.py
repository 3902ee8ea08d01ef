"""Legalization of reshapes with the shortest indices.

TVM computes the place of each element in memory, and from that its indices. Its simplifications of
the quotients and remainders are incomplete, and take for ever where many are put together.
"""

import math
from collections.abc import Sequence

from tvm import relax, te, tirx
from tvm.ir import Call

_INJECTIVE = 2  # TVM's number for kernels that compute each element from some of others


def legalize_reshape(builder: relax.BlockBuilder, call: Call) -> relax.Expr | None:
    """Return a reshape that divides and merges only the axes that change."""
    data = call.args[0]
    before, after = ([int(extent) for extent in value.ty.shape] for value in (data, call))
    if 0 in before:
        return None
    shape = list(call.ty.shape)  # extents of 64 bits, as those of other kernels
    return builder.call_te(
        lambda x: te.compute(shape, lambda *at: x[tuple(indices_before(before, after, at))]),
        data,
        primfunc_name_hint="reshape",
        primfunc_attrs={"op_pattern": _INJECTIVE},
    )


def indices_before(
    before: Sequence[int], after: Sequence[int], at: Sequence[tirx.Expr]
) -> list[tirx.Expr]:
    """Return the indices before a reshape of the element that is `at` these afterwards.

    >>> i, j, k = (tirx.Var(name, "int64") for name in "ijk")
    >>> indices_before([1, 6, 4], [2, 3, 4, 1], [i, j, k, tirx.const(0, "int64")])
    [T.int64(0), i * T.int64(3) + j, k]
    """
    indices: list[tirx.Expr] = []
    old, new = list(before), list(zip(after, at, strict=True))
    zero = tirx.const(0, "int64")
    while old:
        size = old.pop(0)
        if size == 1:
            indices.append(zero)
            continue
        sizes, places, total = [size], [], 1
        while total != math.prod(sizes):  # axes that are divided and merged among themselves
            if total < math.prod(sizes):
                extent, place = new.pop(0)
                total *= extent
                if extent > 1:
                    places.append((extent, place))
            else:
                sizes.append(old.pop(0))
        place = places[0][1]
        for extent, next_place in places[1:]:
            place = place * extent + next_place
        indices += _unflattened(place, sizes)
    return indices


def _unflattened(place: tirx.Expr, sizes: Sequence[int]) -> list[tirx.Expr]:
    indices: list[tirx.Expr] = []
    for size in reversed(sizes[1:]):
        indices.insert(0, place % size)
        place = place // size
    return [place, *indices]
