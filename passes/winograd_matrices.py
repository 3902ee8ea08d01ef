"""The matrices of Winograd's minimal filtering, for windows of three elements.

A tile of ``m`` outputs of a 3-element filter takes ``m + 2`` multiplications instead of ``3 m``:
``output = A^T ((G filter) * (B^T input))``, in each of the two dimensions.

References
----------
.. [1] Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WINOGRAD_MATRICES", "Matrix", "WinogradMatrices"]

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


WINOGRAD_MATRICES = {
    2: WinogradMatrices(
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
        filters=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, 1)),
    ),
    4: WinogradMatrices(
        inputs=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        filters=(
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        outputs=(
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 2, -2, 0),
            (0, 1, 1, 4, 4, 0),
            (0, 1, -1, 8, -8, 1),
        ),
    ),
}
"""By the outputs of a tile in each dimension."""
