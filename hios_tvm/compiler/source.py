"""Where a model comes from: a file, or an object in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tvm.ir import IRModule

from hios_tvm.errors import UsageError
from hios_tvm.frontends import load_model

if TYPE_CHECKING:
    import onnx

    from hios_tvm.schema.node_placement import NodePlacement
    from hios_tvm.verification.reference import Reference

NO_CONFIGURATION = "none"
"""Stands for a configuration where a model is scheduled as if it had none."""


@dataclass(frozen=True)
class ModelSource:
    """A model, and what it leaves open.

    Attributes
    ----------
    model
        An ONNX file or a Relay program; an ONNX model or a frontend's module in memory.
    shapes : mapping of input name to shape
        Where dimensions of ONNX inputs are symbolic.
    params : optional
        Parameters of a Relay program.
    """

    model: str | os.PathLike[str] | onnx.ModelProto | IRModule
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    params: str | os.PathLike[str] | None = None

    @property
    def file(self) -> Path | None:
        """The model's file, where it has one."""
        return Path(self.model) if isinstance(self.model, str | os.PathLike) else None

    def module(self) -> IRModule:
        """Import the model.

        Raises
        ------
        ModelError, UsageError
            As `load_model`.
        """
        if self.file is not None:
            return load_model(self.file, shapes=self.shapes, params=self.params)
        if isinstance(self.model, IRModule):
            return self.model
        from onnx import ModelProto

        from hios_tvm.frontends.onnx import from_onnx

        if not isinstance(self.model, ModelProto):
            raise UsageError(
                f"cannot compile a {type(self.model).__name__}: give a model's file, an "
                "onnx.ModelProto, or a Relax module"
            )
        return from_onnx(self.model, shapes=_tuples(self.shapes))

    def placement(self, configuration: str | None = None) -> NodePlacement | None:
        """Return where an ONNX model says that its nodes are computed, if it does.

        `configuration` is its only one that says so, unless it is named.

        Raises
        ------
        UsageError, ModelError, ScheduleError
            As `read_placement`.
        """
        if isinstance(self.model, IRModule) or (self.file and self.file.suffix != ".onnx"):
            if configuration is not None:
                raise UsageError("only ONNX models have configurations of devices")
            return None
        from onnx import ModelProto

        from hios_tvm.frontends.onnx.files import read_model
        from hios_tvm.frontends.onnx.placement import read_placement

        model = read_model(self.file) if self.file else self.model
        return read_placement(model, configuration) if isinstance(model, ModelProto) else None

    def reference(self, module: IRModule) -> Reference:
        """Return what an artifact of the model is compared with; `module` is its import."""
        is_onnx = self.file.suffix == ".onnx" if self.file else self.model is not module
        if is_onnx:
            from hios_tvm.verification.onnx_reference import OnnxReference

            return OnnxReference(self.file or self.model, _tuples(self.shapes))
        from hios_tvm.verification.relax_reference import RelaxReference

        return RelaxReference(module)


def _tuples(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in shapes.items()}
