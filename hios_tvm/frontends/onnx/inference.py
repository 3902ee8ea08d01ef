"""ONNX's own inference of types and shapes, node by node.

It says how large a node's results are before anything computes them, and the importer's own results
are compared with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TypeProto, helper, numpy_helper
from tvm import relax

from hios_tvm.frontends.onnx.functions import ONNX_DOMAINS
from hios_tvm.frontends.onnx.inputs import MAX_PROPAGATED_ELEMENTS
from hios_tvm.frontends.onnx.operators.call import Value
from hios_tvm.frontends.tensors import array_of, dtype_of, shape_of
from hios_tvm.schema.dtypes import numpy_dtype


@dataclass(frozen=True)
class TensorTypeFact:
    """What is known of a tensor's type: the element type's name, and sizes, each None if unknown.

    `shape` is None where even the number of dimensions is unknown.
    """

    dtype: str | None
    shape: tuple[int | None, ...] | None

    @property
    def elements(self) -> int | None:
        """How many elements the tensor has, if that is known."""
        if self.shape is None or None in self.shape:
            return None
        return math.prod(size or 0 for size in self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes the tensor has, as far as that is known."""
        return (self.elements or 0) * (np.dtype(self.dtype).itemsize if self.dtype else 1)

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
        if self.dtype is None or self.shape is None or self.elements != 0:
            return None
        return np.zeros([size or 0 for size in self.shape], numpy_dtype(self.dtype))

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of unknown shape"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{sizes}]"


def inferred_types(
    node: NodeProto, inputs: Mapping[str, Value], opset: int
) -> dict[str, TensorTypeFact]:
    """Infer the types of what `node` computes, by the names of its outputs.

    Parameters
    ----------
    node : NodeProto
    inputs : mapping of input name to value
    opset : int
        Version of the default domain.

    Returns
    -------
    dict
        Empty where ONNX infers nothing: for nodes with bodies, whose own nodes come one by one,
        for operands that are no tensors, and for operators of other domains.
    """
    schema = _schema(node.op_type, opset) if node.domain in ONNX_DOMAINS else None
    tensors = {name: value for name, value in inputs.items() if isinstance(value, relax.Expr)}
    if schema is None or len(tensors) < len(inputs) or _is_inferred_wrongly(node):
        return {}
    types = {name: _tensor_type(dtype_of(t), shape_of(t)) for name, t in tensors.items()}
    known = {
        name: numpy_helper.from_array(array, name)
        for name, tensor in tensors.items()
        if math.prod(shape_of(tensor)) <= MAX_PROPAGATED_ELEMENTS
        and (array := array_of(tensor)) is not None
    }
    version = [helper.make_opsetid("", opset)]
    try:
        results = onnx.shape_inference.infer_node_outputs(
            schema, _corrected(node), types, known, opset_imports=version
        )
    except Exception:  # as its bindings raise them; the importer itself checks what it converts
        return {}
    return {name: _fact(kind) for name, kind in results.items() if name}


def declared_types(graph: GraphProto) -> dict[str, TensorTypeFact]:
    """What the model says of its outputs, by name."""
    return {value.name: _fact(value.type) for value in graph.output}


@cache
def _schema(operator: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None


@cache
def _tensor_type(dtype: str, shape: tuple[int, ...]) -> TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(numpy_dtype(dtype)), shape)


def _is_inferred_wrongly(node: NodeProto) -> bool:
    """Bodies need the tensors around them; ONNX 1.23 counts a last window inside the padding."""
    return any(
        attribute.HasField("g")
        or attribute.graphs
        or (attribute.name == "ceil_mode" and node.op_type.endswith("Pool"))
        for attribute in node.attribute
    )


def _corrected(node: NodeProto) -> NodeProto:
    """Write out what inference gets wrong: it takes the default of STFT, 1, for 0."""
    if node.op_type != "STFT" or any(entry.name == "onesided" for entry in node.attribute):
        return node
    corrected = NodeProto()
    corrected.CopyFrom(node)
    corrected.attribute.append(helper.make_attribute("onesided", 1))
    return corrected


def _fact(kind: TypeProto) -> TensorTypeFact:
    if not kind.HasField("tensor_type"):
        return TensorTypeFact(None, None)
    tensor = kind.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return TensorTypeFact(dtype, None)
    sizes = (size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    # Exporters write -1 for unknown sizes too
    return TensorTypeFact(
        dtype, tuple(None if size is None or size < 0 else size for size in sizes)
    )
