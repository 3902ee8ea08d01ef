"""The matrices of Winograd's minimal filtering, for windows of three elements.

A tile of 2 outputs of a 3-element filter takes 4 multiplications instead of 6:
``output = A^T ((G filter) * (B^T input))``, and so in each of the two dimensions: 16 instead of 36.

References
----------
.. [1] Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

TILE = 2
"""Outputs of a tile in each dimension.

Tiles of 4 take a quarter of the multiplications, those of 2 four ninths. But tiles of 4 round 4
times as much as a direct convolution, even with the best points (0, +-sqrt(1/2), +-sqrt(2)), and
their weights take 4 times the memory instead of 1.8 times: up to 28 x 28 pixels they win nothing.
"""


Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class WinogradMatrices:
    """B^T (inputs), G (filters) and A^T (outputs).

    All points but the first and the last come in pairs of opposite numbers. Of such a pair the rows
    of B^T are the sum and the difference of two vectors with half of the elements each, and so are
    the columns of A^T: kernels multiply with those vectors, and add and subtract before or after.
    """

    inputs: Matrix
    filters: Matrix
    outputs: Matrix

    @property
    def half_inputs(self) -> Matrix:
        """B^T before sums and differences of the pairs of its rows."""
        return _halved(self.inputs)

    @property
    def half_outputs(self) -> Matrix:
        """A^T after sums and differences of the pairs of its columns."""
        columns = tuple(zip(*self.outputs, strict=True))
        return tuple(zip(*_halved(columns), strict=True))


def _halved(rows: Matrix) -> Matrix:
    halves = list(rows)
    for i in range(1, len(rows) - 1, 2):
        pair = list(zip(rows[i], rows[i + 1], strict=True))
        halves[i] = tuple((a + b) / 2 for a, b in pair)
        halves[i + 1] = tuple((a - b) / 2 for a, b in pair)
    return tuple(halves)


MATRICES = WinogradMatrices(
    inputs=(
        (1, 0, -1, 0),
        (0, 1, 1, 0),
        (0, -1, 1, 0),
        (0, 1, 0, -1),
    ),
    filters=(
        (1, 0, 0),
        (1 / 2, 1 / 2, 1 / 2),
        (1 / 2, -1 / 2, 1 / 2),
        (0, 0, 1),
    ),
    outputs=(
        (1, 1, 1, 0),
        (0, 1, -1, -1),
    ),
)
"""For tiles of 2 x 2 outputs, by the points 0, 1, -1 and infinity: all factors are exact."""
