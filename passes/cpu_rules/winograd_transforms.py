"""Winograd's transforms as arithmetic on vectors of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Broadcast, BufferLoad, Ramp

from hios_tvm.passes.cpu_rules.loop_nest import Index, allocate
from hios_tvm.passes.cpu_rules.winograd_matrices import MATRICES, Matrix


@dataclass(frozen=True)
class Vectors:
    """A matrix of vectors in registers: ``buffer[rows * columns * lanes]``."""

    buffer: tirx.Var
    columns: int
    lanes: int

    @staticmethod
    def allocate(name: str, columns: int, lanes: int, rows: int | None = None) -> Vectors:
        """Emit a matrix, square unless `rows` are given."""
        size = (columns if rows is None else rows) * columns * lanes
        return Vectors(allocate(name, size), columns, lanes)

    def at(self, row: int, column: int) -> tirx.Expr:
        """Return a vector."""
        return BufferLoad(self.buffer, [self._index(row, column)])

    def lane_at(self, row: int, column: int, lane: Index) -> tirx.Expr:
        """Return an element of a vector."""
        return BufferLoad(self.buffer, [(row * self.columns + column) * self.lanes + lane])

    def store(self, row: int, column: int, value: tirx.Expr) -> None:
        """Emit the store of a vector."""
        T.buffer_store(self.buffer, value, [self._index(row, column)])

    def _index(self, row: int, column: int) -> tirx.Expr:
        return Ramp((row * self.columns + column) * self.lanes, 1, self.lanes)


def transformed_inputs(values: Sequence[tirx.Expr], lanes: int) -> list[tirx.Expr]:
    """Return B^T times a column of vectors."""
    return _sums_and_differences(_product_of(MATRICES.half_inputs, values, lanes))


def transformed_outputs(values: Sequence[tirx.Expr], lanes: int) -> list[tirx.Expr]:
    """Return A^T times a column of vectors."""
    return _product_of(MATRICES.half_outputs, _sums_and_differences(values), lanes)


def _sums_and_differences(values: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    """Replace each pair of values between the first and the last by its sum and difference."""
    results = list(values)
    for i in range(1, len(values) - 1, 2):
        results[i : i + 2] = [values[i] + values[i + 1], values[i] - values[i + 1]]
    return results


def _product_of(matrix: Matrix, values: Sequence[tirx.Expr], lanes: int) -> list[tirx.Expr]:
    """Return a constant matrix times a column of vectors."""
    return [_weighted_sum(row, values, lanes) for row in matrix]


def _weighted_sum(row: Sequence[float], values: Sequence[tirx.Expr], lanes: int) -> tirx.Expr:
    terms = [(factor, value) for factor, value in zip(row, values, strict=True) if factor]
    terms.sort(key=lambda term: term[0] < 0)  # begin with one that is added
    total: tirx.Expr | None = None
    for factor, value in terms:
        if abs(factor) != 1:
            value = Broadcast(tirx.const(abs(float(factor)), "float32"), lanes) * value
        if total is None:
            total = value if factor > 0 else Broadcast(tirx.const(-1.0, "float32"), lanes) * value
        else:
            total = total + value if factor > 0 else total - value
    assert total is not None  # no row of these matrices is zero
    return total
