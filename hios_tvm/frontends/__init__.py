"""Importers: a model file in, a Relax IRModule out.

Every frontend returns a module with one Relax function `main`: its parameters are the model's
inputs, its weights are constants, all shapes are static, and the attributes ``input_names`` and
``output_names`` hold the original names in order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hios_tvm.errors import UsageError

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["load_model"]

_RELAY_SUFFIXES = (".relay", ".json", ".txt")


def load_model(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    params: str | os.PathLike[str] | None = None,
) -> IRModule:
    """Import a model by its file's suffix: ``.onnx``, or a Relay program with its parameters.

    Parameters
    ----------
    shapes : input name -> shape, optional
        Shapes of ONNX inputs, where dimensions are symbolic.
    params : Path, optional
        Parameters of a Relay program.

    Raises
    ------
    ModelError, UsageError
        If the file cannot be read, is not valid, or the options do not fit it.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        if params is not None:
            raise UsageError(f"--params is for Relay programs; {path} holds its own weights")
        from hios_tvm.frontends.onnx import load_onnx

        return load_onnx(path, shapes={name: tuple(dims) for name, dims in (shapes or {}).items()})
    if path.suffix in _RELAY_SUFFIXES:
        if shapes:
            raise UsageError(f"--shape is for ONNX models; the types in {path} hold its shapes")
        from hios_tvm.frontends.relay import load_relay

        return load_relay(path, params if params is None else Path(params))
    raise UsageError(
        f"{path}: unknown kind of model; known are .onnx and {', '.join(_RELAY_SUFFIXES)} (Relay)"
    )
