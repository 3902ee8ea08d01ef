"""The weights of Winograd's method: how they are transformed.

    for block, c, o:                               # o of a block of output channels
        packed[block, points, c, o] = G weights[3x3, c, block * channels + o] G^T   # 16 points

They take 16/9 of the weights' size, so that artifacts store the weights as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from hios_tvm.passes.cpu_rules.loop_nest import Index, as_index, emitted, parallel, serial
from hios_tvm.passes.cpu_rules.winograd_matrices import MATRICES
from hios_tvm.passes.schedule_kernels import PackingAtLoad

_WIDTH = len(MATRICES.filters)


@dataclass(frozen=True)
class TransformedWeights(PackingAtLoad):
    """Transforms ``(3, 3, inputs, outputs)`` as `WinogradShape` says.

    >>> TransformedWeights(block=32)(np.ones((3, 3, 3, 40), "float32")).shape
    (2, 16, 3, 32)
    """

    name = "winograd_weights"
    block: int
    dtype: str = "float32"

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        _, _, inputs, outputs = weights.shape
        matrix = np.array(MATRICES.filters)
        points = np.einsum("ia,jb,abco->ijco", matrix, matrix, weights.astype("float64"))
        blocks = -(-outputs // self.block)
        padded = np.zeros((_WIDTH**2, inputs, blocks * self.block), np.float32)
        padded[:, :, :outputs] = points.reshape(_WIDTH**2, inputs, outputs)
        packed = padded.reshape(-1, inputs, blocks, self.block).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(packed)

    def kernel(self, shape: Sequence[int]) -> tirx.PrimFunc:
        _, _, inputs, outputs = shape
        blocks = -(-outputs // self.block)
        weights = _buffer("weights", *shape, dtype=self.dtype)
        packed = _buffer("packed", blocks, _WIDTH**2, inputs, self.block)

        def write() -> None:
            for row in parallel("row", inputs * blocks, work=packed_elements):
                block, channel = row // inputs, row % inputs
                first = block * self.block
                given = tirx.min(self.block, outputs - first)
                for o in serial("o", given):
                    self._write(weights, packed, channel, first + o, (block, o))
                for o in serial("padding", self.block - given, start=given):
                    for point in range(_WIDTH**2):
                        zero = tirx.const(0.0, "float32")
                        T.buffer_store(packed, zero, [block, point, channel, o])

        packed_elements = blocks * _WIDTH**2 * inputs * self.block
        root = s_tir.SBlock([], [], [], "root", emitted(write))
        return tirx.PrimFunc([weights, packed], s_tir.SBlockRealize([], True, root))

    def _write(
        self,
        weights: tirx.Var,
        packed: tirx.Var,
        channel: Index,
        output: Index,
        place: tuple[Index, Index],
    ) -> None:
        """Emit the transform of one window, rounded once."""
        block, o = place
        window = [
            [weights[a, b, channel, output].astype("float64") for b in range(3)] for a in range(3)
        ]
        rows = [
            [_sum(row, [window[a][b] for a in range(3)]) for b in range(3)]
            for row in MATRICES.filters
        ]
        for i, j in product(range(_WIDTH), repeat=2):
            value = _sum(MATRICES.filters[j], rows[i]).astype("float32")
            T.buffer_store(packed, value, [block, i * _WIDTH + j, channel, o])


def _sum(factors: Sequence[float], values: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return the sum of products."""
    terms = [
        value if factor == 1 else value * tirx.const(float(factor), "float64")
        for factor, value in zip(factors, values, strict=True)
        if factor
    ]
    return sum(terms[1:], terms[0])


def _buffer(name: str, *shape: int, dtype: str = "float32") -> tirx.Var:
    return tirx.decl_buffer(list(map(as_index, shape)), dtype, name, layout=None)
