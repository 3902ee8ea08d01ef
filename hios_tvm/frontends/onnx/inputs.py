"""Static shapes of a model's inputs, from the model and from the user."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from onnx import GraphProto, TensorProto, TypeProto, ValueInfoProto, helper

from hios_tvm.errors import MissingShapeError, ModelError, UsageError
from hios_tvm.schema.graph import Tensor

Shape = tuple[int, ...]

ELEMENT_TYPES = frozenset(
    getattr(TensorProto, name)
    for name in (
        *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
        *("FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE"),
    )
)
"""What TVM computes with; it takes smaller numbers too, with wrong results."""

INPUT_TYPES = ELEMENT_TYPES | {TensorProto.FLOAT8E8M0}
"""What inputs may hold: powers of two are right to read, and not to write."""


MAX_PROPAGATED_ELEMENTS = 1 << 10
"""Larger weights are no shapes, axes or indices: ONNX's own tools need their types alone."""


def without_weights(graph: GraphProto) -> GraphProto:
    """A copy in which large weights are inputs: ONNX's own tools handle no more than 2 GB.

    Types that the model notes for its tensors are left out: exporters leave stale ones behind.
    """
    light = GraphProto(name=graph.name, node=graph.node, output=graph.output)
    light.input.extend(model_inputs(graph))
    for tensor in graph.initializer:
        if prod(tensor.dims) <= MAX_PROPAGATED_ELEMENTS:
            light.initializer.append(tensor)
        else:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.input.append(info)
    return light


def model_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs that a caller gives; models of IR version 3 list their weights as well."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def input_shapes(
    graph: GraphProto, overrides: Mapping[str, Shape], label: str
) -> tuple[dict[str, Shape], list[str]]:
    """Shapes of the inputs, and the dimensions without a value as ``input: dimension``.

    A symbolic dimension gets its value from `overrides` in every input that has it.

    Raises
    ------
    ModelError
        If an input is no tensor.
    UsageError
        If `overrides` names an unknown input or contradicts the model.
    """
    inputs = {value.name: value for value in model_inputs(graph)}
    for name in overrides:
        if name not in inputs:
            raise UsageError(f"{label} has no input {name!r}; it has {', '.join(inputs)}")
    symbols = _symbols(inputs, overrides, label)
    shapes: dict[str, Shape] = {}
    unknown: list[str] = []
    for name, value in inputs.items():
        kind = _tensor_type(value, label)
        if name in overrides:
            shapes[name] = overrides[name]
        elif not kind.HasField("shape"):
            unknown.append(f"{name}: number of dimensions")
        else:
            sizes = [size or symbols.get(symbol) for symbol, size in _dimensions(kind)]
            shapes[name] = tuple(size for size in sizes if size is not None)
            unknown += [
                f"{name}: {symbol or f'dimension {axis}'}"
                for axis, ((symbol, _), size) in enumerate(
                    zip(_dimensions(kind), sizes, strict=True)
                )
                if size is None
            ]
    return shapes, unknown


def missing_shapes(
    graph: GraphProto, unknown: Sequence[str], label: str, hint: str = ""
) -> MissingShapeError:
    """Return the error for dimensions without a value, with the options that would give them one.

    `unknown` is as `input_shapes` returns it; `hint` tells what else a dimension may be.
    """
    inputs = dict.fromkeys(text.rpartition(":")[0] for text in unknown)
    examples = " ".join(f"--shape {_shape_example(graph, name)}" for name in inputs)
    return MissingShapeError(
        f"{label}: these dimensions have no value: {', '.join(unknown)}; "
        f"give the inputs' shapes, such as {examples}" + (f" (in which {hint})" if hint else ""),
        dimensions=tuple(unknown),
    )


def input_tensors(
    graph: GraphProto, overrides: Mapping[str, Shape], label: str
) -> tuple[Tensor, ...]:
    """Return the inputs that a caller gives, with their shapes and types.

    Raises
    ------
    ModelError, UsageError
        As `input_shapes`; `MissingShapeError` where dimensions have no value.
    """
    shapes, unknown = input_shapes(graph, overrides, label)
    if unknown:
        raise missing_shapes(graph, unknown, label)
    return tuple(
        Tensor(value.name, shapes[value.name], _dtype(value)) for value in model_inputs(graph)
    )


def _dtype(value: ValueInfoProto) -> str:
    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _shape_example(graph: GraphProto, name: str) -> str:
    """Write a shape of the input `name`, with 1 for each dimension that has no value."""
    value = next(value for value in graph.input if value.name == name)
    dims = [str(dim.dim_value or 1) for dim in value.type.tensor_type.shape.dim]
    return f"{name}:{','.join(dims) or '1,3,224,224'}"


def _symbols(
    inputs: Mapping[str, ValueInfoProto], overrides: Mapping[str, Shape], label: str
) -> dict[str, int]:
    """The values that `overrides` gives to symbolic dimensions, where they fit the model."""
    values: dict[str, int] = {}
    for name, shape in overrides.items():
        if any(size < 0 for size in shape):
            raise UsageError(f"shape {shape} of input {name!r}: a dimension is negative")
        kind = _tensor_type(inputs[name], label)
        if not kind.HasField("shape"):
            continue
        dimensions = list(_dimensions(kind))
        if len(dimensions) != len(shape):
            raise UsageError(
                f"input {name!r} of {label} has {len(dimensions)} dimensions, "
                f"the given shape {shape} has {len(shape)}"
            )
        for axis, ((symbol, size), given) in enumerate(zip(dimensions, shape, strict=True)):
            if size is not None and size != given:
                raise UsageError(
                    f"dimension {axis} of input {name!r} of {label} is {size}, not {given}"
                )
            if symbol and values.setdefault(symbol, given) != given:
                raise UsageError(
                    f"dimension {symbol!r} of {label} cannot be {values[symbol]} and {given}"
                )
    return values


def _tensor_type(value: ValueInfoProto, label: str) -> TypeProto.Tensor:
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{label}: input {value.name!r} is no tensor; only tensors can be inputs")
    element = value.type.tensor_type.elem_type
    if element not in INPUT_TYPES:
        known = element in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(element) if known else element
        raise ModelError(f"{label}: input {value.name!r} holds {name}, which cannot be compiled")
    return value.type.tensor_type


def _dimensions(kind: TypeProto.Tensor) -> Iterator[tuple[str, int | None]]:
    """Symbol and size of each dimension; exporters write -1 and 0 for unknown sizes too."""
    for dimension in kind.shape.dim:
        known = dimension.dim_value > 0
        yield dimension.dim_param, dimension.dim_value if known else None
