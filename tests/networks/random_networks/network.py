"""A network with its inputs, and its folder on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A model and one set of its inputs, by name."""

    model: onnx.ModelProto
    inputs: Mapping[str, Array]

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.model.graph.output]

    @property
    def operators(self) -> list[str]:
        return [node.op_type for node in self.model.graph.node]

    @staticmethod
    def load(folder: Path) -> Network:
        """Read ``model.onnx`` and ``inputs.npz``."""
        with np.load(folder / "inputs.npz") as inputs:
            return Network(onnx.load(folder / "model.onnx"), dict(inputs))

    def save(self, folder: Path, expected: Mapping[str, Array], note: str) -> None:
        """Write ``model.onnx``, ``inputs.npz``, ``expected.npz`` and ``note.txt``."""
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(self.model, folder / "model.onnx")
        np.savez(folder / "inputs.npz", **dict(self.inputs))  # type: ignore[arg-type]
        np.savez(folder / "expected.npz", **dict(expected))  # type: ignore[arg-type]
        (folder / "note.txt").write_text(note.strip() + "\n")
