"""A model as something else than this compiler runs it: whole, or a part of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hios_tvm.verification.deviation import Arrays

if TYPE_CHECKING:
    from tvm.ir import IRModule

_UNITS = 16


@dataclass(frozen=True)
class Step:
    """One operator of a model, and the tensors that it reads and writes.

    `is_computed` is False where the values of the model's inputs do not matter: what weights alone
    or shapes decide. Such steps are no places to cut a model at: they go where their readers go.
    """

    operator: str
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    is_computed: bool = True


class Reference(ABC):
    """A model that another program runs, and that can be cut into parts."""

    @property
    @abstractmethod
    def runner(self) -> str:
        """The program that runs it, with its version."""

    @cached_property
    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """All operators, in an order in which they can run."""

    @property
    @abstractmethod
    def outputs(self) -> Sequence[str]:
        """Tensors that the model returns."""

    @property
    def output_steps(self) -> Mapping[str, float]:
        """What neighbouring values of quantized outputs differ by, where that is known."""
        return {}

    def in_layers(self, draws: Sequence[Arrays]) -> tuple[Reference, tuple[Arrays, ...]] | None:
        """Return the model cut into layers that do not depend on each other, and their inputs.

        Each quantized tensor that kernels pass on is an output of the model, and its readers read
        an input in its place: what the reference computes for that tensor from `draws`. None where
        there are no such tensors.

        Raises
        ------
        ModelError
            If the reference cannot run the model with these outputs.
        """
        return None

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the model once.

        Raises
        ------
        UsageError
            If the program is not installed.
        ModelError
            If it cannot run the model.
        """

    @abstractmethod
    def run_otherwise(
        self, inputs: Arrays, rounding: float = 0.0
    ) -> Iterable[dict[str, np.ndarray]]:
        """Run the model in ways in which only rounding differs from `run`.

        `rounding` is what the compiled model rounds numbers by, relative to them.
        """

    @abstractmethod
    def module(self) -> IRModule:
        """Import the model, for the compiler."""

    @abstractmethod
    def save(self, folder: Path) -> Path:
        """Write the model into `folder`, and return the file that can be compiled."""

    @abstractmethod
    def _cut(self, steps: Sequence[Step], inputs: Arrays, outputs: Sequence[str]) -> Reference:
        """Return the model of these steps; `inputs` have the shapes and types of its inputs."""

    @cached_property
    def writer(self) -> Mapping[str, int]:
        """Position of the step that writes a tensor."""
        return {tensor: i for i, step in enumerate(self.steps) for tensor in step.writes}

    def part(self, chosen: Collection[int], values: Arrays, outputs: Sequence[str]) -> Reference:
        """Return the part with the `chosen` steps, and what they need that is not computed.

        `values` holds at least the tensors that `needed` names.
        """
        steps = self._with_fixed(chosen)
        inputs = {name: values[name] for name in self._open_reads(steps)}
        return self._cut([self.steps[i] for i in steps], inputs, outputs)

    def needed(self, chosen: Collection[int]) -> list[str]:
        """Return the tensors that the part with the `chosen` steps has as inputs."""
        return self._open_reads(self._with_fixed(chosen))

    def frontier(self, count: int) -> list[str]:
        """Return what the first `count` steps compute for later ones, or for the caller."""
        later = {name for step in self.steps[count:] if step.is_computed for name in step.reads}
        later |= set(self.outputs)
        return [
            name
            for step in self.steps[:count]
            if step.is_computed
            for name in step.writes
            if name in later
        ]

    def before(self, chosen: Collection[int]) -> set[int]:
        """Return `chosen` and the computed steps that it reads from directly."""
        return set(chosen) | {
            self.writer[name] for name in self.needed(chosen) if name in self.writer
        }

    def _with_fixed(self, chosen: Collection[int]) -> list[int]:
        """Return `chosen` and the steps that are not computed behind it, in order."""
        found, waiting = set(chosen), list(chosen)
        while waiting:
            for name in self.steps[waiting.pop()].reads:
                i = self.writer.get(name)
                if i is not None and i not in found and not self.steps[i].is_computed:
                    found.add(i)
                    waiting.append(i)
        return sorted(found)

    def _open_reads(self, steps: Sequence[int]) -> list[str]:
        """Return what `steps` read and do not write: inputs of the model, or computed tensors."""
        written = {name for i in steps for name in self.steps[i].writes}
        reads = (name for i in steps for name in self.steps[i].reads)
        return [name for name in dict.fromkeys(reads) if name not in written]


def perturbed(inputs: Arrays, seed: int, rounding: float = 0.0) -> dict[str, np.ndarray]:
    """Return the inputs with each float moved a little, up or down.

    By `_UNITS` units in the last place, which is what a sum of a thousand terms in another order
    differs by, or by `rounding` times the number where that is more; in half precision, where one
    unit is as much as all of those, by one.

    >>> perturbed({"x": np.ones(1, "float32")}, seed=0, rounding=2.0**-8)["x"]
    array([1.0039062], dtype=float32)
    """
    rng = np.random.default_rng(seed)
    moved = {}
    for name, array in inputs.items():
        if array.dtype.kind in "iub":
            moved[name] = array
            continue
        sign = 2 * rng.integers(0, 2, array.shape) - 1
        if array.dtype.itemsize >= 4:
            step = np.maximum(_UNITS * np.abs(np.spacing(array)), rounding * np.abs(array))
            moved[name] = np.asarray(array + (sign * step).astype(array.dtype))
        else:
            towards = (sign * np.inf).astype(array.dtype)
            moved[name] = np.asarray(np.nextafter(array, towards))
    return moved
