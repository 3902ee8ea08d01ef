"""Which shape of an artifact runs given inputs, and what a run of fewer rows needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hios_tvm.errors import InputError
from hios_tvm.runtime.arguments import Array, Tensors, shapes_of
from hios_tvm.runtime.memory import aligned_empty
from hios_tvm.schema.manifest import Batch, Manifest, TensorSpec

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """The number of a shape, and the rows of the batch to use of it; None for all of them."""

    number: int
    rows: int | None = None


class ShapeChooser:
    """Chooses among the shapes of an artifact; `manifests` has the largest first."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        first = manifests[0]
        self._specs = first.inputs
        self._shapes = [manifest.shape for manifest in manifests]
        self._batch = None if first.shapes is None else first.shapes.batch
        self._exact = {
            tuple(shape.values()): Choice(number) for number, shape in enumerate(self._shapes)
        }

    def choose(self, inputs: Tensors) -> Choice:
        """Return the shape of `inputs`, or the next larger one where only the batch differs.

        Raises
        ------
        InputError
            If there is none.
        """
        given = shapes_of(inputs, self._specs)
        if given is None:
            return Choice(0)  # which says what is missing
        exact = self._exact.get(given)
        return self._larger(given) if exact is None else exact

    def _larger(self, given: Sequence[_Shape]) -> Choice:
        shape = {spec.name: own for spec, own in zip(self._specs, given, strict=True)}
        batch = self._batch
        if batch is not None and all(len(shape[n]) > axis for n, axis in batch.inputs.items()):
            rows = batch.rows(shape)
            larger = [
                (batch.rows(own), number)
                for number, own in enumerate(self._shapes)
                if _with_rows(own, batch.inputs, rows) == shape
            ]
            fitting = [pair for pair in larger if pair[0] >= rows]
            if fitting and batch.smallest <= rows <= batch.largest:
                return Choice(min(fitting)[1], rows)
        raise InputError(f"inputs: no program for {_text(shape)}; {self._known()}")

    def _known(self) -> str:
        """Say which shapes can be run."""
        sizes = "; ".join(_text(shape) for shape in reversed(self._shapes))
        text = f"the artifact has programs for {sizes}"
        if self._batch is not None:
            text += f", and runs batches from {self._batch.smallest} to {self._batch.largest}"
        return text


@dataclass(frozen=True)
class FewerRows:
    """A run of `rows` rows by a program of more.

    Attributes
    ----------
    batch : Batch
    manifest : Manifest
        Of the program.
    rows : int
    """

    batch: Batch
    manifest: Manifest
    rows: int

    @property
    def inputs(self) -> list[TensorSpec]:
        """What the run needs."""
        return [self._fewer(spec, self.batch.inputs) for spec in self.manifest.inputs]

    @property
    def outputs(self) -> list[TensorSpec]:
        """What the run returns."""
        return [self._fewer(spec, self.batch.outputs) for spec in self.manifest.outputs]

    def fill(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return inputs of the program, in which the last row stands for those that are missing.

        It is as valid as it was, so that no check of values finds fault with it.
        """
        return {
            spec.name: self._fill(spec, inputs[spec.name], self.batch.inputs.get(spec.name))
            for spec in self.manifest.inputs
        }

    def cut(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of the rows that were given."""
        return {
            spec.name: np.ascontiguousarray(outputs[spec.name][tuple(map(slice, spec.shape))])
            for spec in self.outputs
        }

    def _fill(self, spec: TensorSpec, array: Array, axis: int | None) -> Array:
        if axis is None:
            return array
        filled = aligned_empty(spec.shape, spec.dtype)
        by_row, given = np.moveaxis(filled, axis, 0), np.moveaxis(array, axis, 0)
        by_row[: self.rows] = given
        by_row[self.rows :] = given[-1]
        return filled

    def _fewer(self, spec: TensorSpec, axes: Mapping[str, int]) -> TensorSpec:
        if spec.name not in axes:
            return spec
        shape, axis = list(spec.shape), axes[spec.name]
        shape[axis] = shape[axis] // self.batch.rows(self.manifest.shape) * self.rows
        return replace(spec, shape=tuple(shape))


def _with_rows(
    shape: Mapping[str, _Shape], axes: Mapping[str, int], rows: int
) -> dict[str, _Shape]:
    return {
        name: tuple(rows if axes.get(name) == i else size for i, size in enumerate(own))
        for name, own in shape.items()
    }


def _text(shape: Mapping[str, _Shape]) -> str:
    return ", ".join(f"{name} {list(own)}" for name, own in shape.items())
