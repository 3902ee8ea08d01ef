"""ONNX's own inference of types and shapes, which the importer's results are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from hios_tvm.frontends.onnx.inputs import without_weights
from hios_tvm.schema.dtypes import numpy_dtype


@dataclass(frozen=True)
class TensorTypeFact:
    """What is known of a tensor's type: the element type's name, and sizes, each None if unknown.

    `shape` is None where even the number of dimensions is unknown.
    """

    dtype: str | None
    shape: tuple[int | None, ...] | None

    def contradicts(self, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this type cannot be of `dtype` and `shape`."""
        if self.dtype is not None and self.dtype != dtype:
            return True
        if self.shape is None:
            return False
        return len(self.shape) != len(shape) or any(
            known not in (None, size) for known, size in zip(self.shape, shape, strict=True)
        )

    def empty(self) -> np.ndarray | None:
        """The tensor itself, if it is known to have no elements."""
        if self.dtype is None or self.shape is None or 0 not in self.shape or None in self.shape:
            return None
        return np.zeros([size or 0 for size in self.shape], numpy_dtype(self.dtype))

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown shape"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{sizes}]"


def inferred_types(
    graph: GraphProto, opset: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorTypeFact]:
    """Infer the types of all tensors that nodes of `graph` compute, by name.

    Types that the model itself declares are not used.

    Parameters
    ----------
    graph : GraphProto
    opset : int
    shapes : mapping of input name to shape
    """
    light = without_weights(graph)
    for value in light.input:
        if value.name in shapes:
            element = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, element, shapes[value.name]))
    for value in light.output:
        value.ClearField("type")
    for node in light.node:
        _correct(node)
    domains = {node.domain for node in light.node} - {"", "ai.onnx"}
    model = ModelProto(
        ir_version=onnx.IR_VERSION,
        graph=light,
        opset_import=[
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(domain, 1) for domain in sorted(domains)),
        ],
    )
    try:
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # as its bindings raise them; the importer itself checks what it converts
        return {}
    facts = (*typed.graph.value_info, *typed.graph.output)
    return {value.name: _fact(value) for value in facts}


def declared_types(graph: GraphProto) -> dict[str, TensorTypeFact]:
    """What the model says of its outputs, by name."""
    return {value.name: _fact(value) for value in graph.output}


def _correct(node: NodeProto) -> None:
    """Write out or hide what inference gets wrong."""
    attributes = {entry.name for entry in node.attribute}
    if node.op_type == "STFT" and "onesided" not in attributes:  # it takes the default, 1, for 0
        node.attribute.append(helper.make_attribute("onesided", 1))
    if node.op_type.endswith("Pool") and "ceil_mode" in attributes:
        node.domain = "not.inferred"  # ONNX 1.23 counts a last window that lies in the padding


def _fact(value: ValueInfoProto) -> TensorTypeFact:
    if not value.type.HasField("tensor_type"):
        return TensorTypeFact(None, None)
    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else None
    if not kind.HasField("shape"):
        return TensorTypeFact(dtype, None)
    sizes = (size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
    # Exporters write -1 for unknown sizes too
    return TensorTypeFact(
        dtype, tuple(None if size is None or size < 0 else size for size in sizes)
    )
