"""Import of an ONNX model: read, check, convert."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import tvm
from onnx import ModelProto

from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx.files import external_tensors, load_external_data, read_model
from hios_tvm.frontends.onnx.functions import expand_functions, unsupported_operators
from hios_tvm.frontends.onnx.importer import OnnxImporter
from hios_tvm.frontends.onnx.inputs import input_shapes, missing_shapes
from hios_tvm.frontends.onnx.structure import check_names, check_structure, default_opset


def load_onnx(
    path: Path | str, *, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tvm.IRModule:
    """Import an ONNX file.

    Parameters
    ----------
    path : Path or str
        The model. Its external data must lie in its folder, or in the folder of the file that it
        links to.
    shapes : mapping of input name to shape, optional
        Values for dimensions that the model leaves open.

    Returns
    -------
    tvm.IRModule
        Of the form that `hios_tvm.frontends` describes: one dataflow function ``main``.

    Raises
    ------
    ModelError
        If the file is missing, damaged or not valid; `UnsupportedOperatorError` and
        `DynamicShapeError` name all operators and all dimensions at once.
    UsageError
        If `shapes` names an unknown input, or contradicts the model.
    """
    path = Path(path)
    return _import(read_model(path), str(path), shapes or {}, path)


def from_onnx(
    model: ModelProto,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    base_dir: Path | None = None,
) -> tvm.IRModule:
    """Import an ONNX model from memory, which stays as it is.

    Parameters
    ----------
    model : ModelProto
    shapes : mapping of input name to shape, optional
        Values for dimensions that the model leaves open.
    base_dir : Path, optional
        The folder of the model's external data.

    Returns
    -------
    tvm.IRModule
        As `load_onnx`.

    Raises
    ------
    ModelError, UnsupportedOperatorError, DynamicShapeError, UsageError
        As `load_onnx`.
    """
    label = "the model"
    with contextlib.suppress(UnicodeDecodeError):
        label = model.graph.name or label
    if next(external_tensors(model.graph), None) is None:
        return _import(model, label, shapes or {}, None)
    if base_dir is None:
        raise ModelError(f"{label} has external data; give its folder as base_dir")
    copy = ModelProto()
    copy.CopyFrom(model)
    return _import(copy, label, shapes or {}, base_dir / "model.onnx")


def _import(
    model: ModelProto, label: str, shapes: Mapping[str, tuple[int, ...]], file: Path | None
) -> tvm.IRModule:
    try:
        return _import_named(model, label, shapes, file)
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{label}: a name or text in it is not valid UTF-8; export the model again"
        ) from error


def _import_named(
    model: ModelProto, label: str, shapes: Mapping[str, tuple[int, ...]], file: Path | None
) -> tvm.IRModule:
    """Cheap checks, before gigabytes of weights are read."""
    opset = default_opset(model, label)
    check_names(model, label)
    model = expand_functions(model, opset, label)
    check_structure(model.graph, label)
    static_shapes, unknown = input_shapes(model.graph, shapes, label)
    unsupported = unsupported_operators(model.graph)
    if unsupported:
        message = (
            f"{label}: no import for the operators {', '.join(unsupported)}; "
            "export the model without them"
        )
        if unknown:
            message += f". These dimensions have no value either: {', '.join(unknown)}"
        raise UnsupportedOperatorError(message, operators=tuple(unsupported))
    if unknown:
        several = "1..8 is a range of sizes of a batch, and {32,64} a list of sizes"
        raise missing_shapes(model.graph, unknown, label, several)
    if file is not None:
        load_external_data(model, file)
    return OnnxImporter(opset, label).import_graph(model.graph, static_shapes)
