"""What a model says about itself: inputs, outputs and metadata, under ONNX Runtime's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from hios_tvm.frontends.onnx.inputs import model_inputs
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import Manifest, TensorSpec

_ONNX_NAMES = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double"}


@dataclass(frozen=True)
class NodeArg:
    """An input or output: `type` is such as ``tensor(float)``, symbols in `shape` are strings."""

    name: str
    shape: list[int | str | None]
    type: str


@dataclass(frozen=True)
class ModelMetadata:
    """What the author of a model wrote into it."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and metadata of a model."""

    inputs: tuple[NodeArg, ...]
    outputs: tuple[NodeArg, ...]
    metadata: ModelMetadata

    @property
    def is_static(self) -> bool:
        """Whether all dimensions of the inputs are numbers."""
        return all(isinstance(dim, int) for item in self.inputs for dim in item.shape)


def type_name(dtype: np.dtype[Any]) -> str:
    """Return ONNX's name of a type of tensors.

    >>> type_name(np.dtype("float32")), type_name(np.dtype("int64"))
    ('tensor(float)', 'tensor(int64)')
    """
    return _type_name(helper.np_dtype_to_tensor_dtype(dtype))


def signature_of_model(model: ModelProto, dimensions: Mapping[str, int]) -> Signature:
    """Read the signature of an ONNX model, with values for some of its symbolic dimensions."""
    graph = model.graph
    return Signature(
        inputs=_node_args(model_inputs(graph), dimensions),
        outputs=_node_args(graph.output, dimensions),
        metadata=ModelMetadata(
            producer_name=model.producer_name,
            graph_name=graph.name,
            domain=model.domain,
            description=model.doc_string,
            graph_description=graph.doc_string,
            version=model.model_version,
            custom_metadata_map={entry.key: entry.value for entry in model.metadata_props},
        ),
    )


def signature_of_artifact(manifest: Manifest) -> Signature:
    """Read the signature of an artifact, which keeps no metadata but the model's name."""

    def node_args(specs: Iterable[TensorSpec]) -> tuple[NodeArg, ...]:
        return tuple(
            NodeArg(spec.name, [*spec.shape], type_name(numpy_dtype(spec.dtype))) for spec in specs
        )

    metadata = ModelMetadata(graph_name=manifest.model)
    return Signature(node_args(manifest.inputs), node_args(manifest.outputs), metadata)


def _node_args(
    values: Iterable[ValueInfoProto], dimensions: Mapping[str, int]
) -> tuple[NodeArg, ...]:
    found = []
    for value in values:
        tensor = value.type.tensor_type
        shape: list[int | str | None] = [
            dim.dim_value
            if dim.HasField("dim_value")
            else dimensions.get(dim.dim_param, dim.dim_param or None)
            for dim in tensor.shape.dim
        ]
        if not tensor.HasField("shape"):
            shape = [None]
        found.append(NodeArg(value.name, shape, _type_name(tensor.elem_type)))
    return tuple(found)


def _type_name(element: int) -> str:
    name = _ONNX_NAMES.get(element) or TensorProto.DataType.Name(element).lower()
    return f"tensor({name})"
