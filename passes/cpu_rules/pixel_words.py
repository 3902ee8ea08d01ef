"""The rule for channels-last images of bytes that have four channels, such as quantized RGB images.

Convolutions of integers read four channels of a pixel at a time, so that images of fewer channels
are padded. Before, for an image of floats whose channels come first:

    for y, x, c: q[y, x, c] = uint8(round(image[c, y, x] / s)) if c < 3 else 0

After, a vector of pixels is computed channel after channel, and stored as words of four bytes:

    parallel for y
        for x in vectors
            word[y, x] = q(y, x, 0) + (q(y, x, 1) << 8) + (q(y, x, 2) << 16)      # uint32

Columns of padding have code of their own, without what the others compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tvm import sym, tirx
from tvm.ir import Range
from tvm.script import tirx as T
from tvm.tirx import DeclBuffer

from hios_tvm.passes.cpu_rules.injective import Store, breakpoints, inlined_stores
from hios_tvm.passes.cpu_rules.loop_nest import Index, as_index, emitted, parallel, rebuilt, vectors
from hios_tvm.passes.cpu_rules.vector_rule import VectorRule
from hios_tvm.passes.tir_trees import with_values

_CHANNELS = 4


class PixelWords(VectorRule):
    """Write out kernels that compute images of four bytes a pixel."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        stores = inlined_stores(func)
        if stores is None or len(stores) != 1:
            return None
        (store,) = stores
        if str(store.buffer.dtype) != "uint8" or len(store.axes) != 4:
            return None
        if store.extents[-1] != _CHANNELS or store.extents[-2] < self.lanes:
            return None
        return rebuilt(func, emitted(_Nest(store, self.lanes).write))


@dataclass(frozen=True)
class _Nest:
    """The kernel to write: one store of ``(batch, height, width, 4)``."""

    store: Store
    lanes: int

    def write(self) -> None:
        """Emit the loops over rows and pixels."""
        store = self.store
        batch, height, width, _ = store.extents
        data = store.buffer.data
        words = tirx.decl_buffer((batch * height * width,), "uint32", "words", data=data)
        T.add_to_parent(DeclBuffer(words, data=data))
        by_channel = [self._simplified({store.axes[-1]: c}, store.value) for c in range(_CHANNELS)]
        axis = store.axes[2]
        points = {0, width}.union(*(breakpoints(value, axis, width) for value in by_channel))
        for row in parallel("row", batch * height, work=math.prod(store.extents)):
            place = {store.axes[0]: row // height, store.axes[1]: row % height}
            for start, end in pairwise(sorted(points)):
                values = [self._in_range(value, start, end) for value in by_channel]
                for x in vectors("x", start, end - start, self.lanes):
                    at = {**place, axis: as_index(x)}
                    T.buffer_store(words, _word(values, at), [as_index(row * width + x)])

    def _simplified(self, at: dict[tirx.Var, Index], value: tirx.Expr) -> tirx.Expr:
        known = {axis: as_index(index) for axis, index in at.items()}
        return sym.Analyzer().simplify(with_values(value, known))

    def _in_range(self, value: tirx.Expr, start: int, end: int) -> tirx.Expr:
        """Return `value` without conditions that hold for all columns of a range."""
        analyzer = sym.Analyzer()
        for axis, extent in zip(self.store.axes[:2], self.store.extents[:2], strict=True):
            analyzer.bind(axis, Range(as_index(0), as_index(extent)))
        analyzer.bind(self.store.axes[2], Range(as_index(start), as_index(end)))
        return analyzer.simplify(value)


def _word(values: Sequence[tirx.Expr], at: dict[tirx.Var, tirx.Expr]) -> tirx.Expr:
    """Return the channels of a pixel, the first in the lowest byte."""
    word: tirx.Expr = tirx.const(0, "uint32")
    for channel, value in enumerate(values):
        byte = tirx.Cast("uint32", with_values(value, at))
        word = word + (byte << tirx.const(8 * channel, "uint32"))
    return word
