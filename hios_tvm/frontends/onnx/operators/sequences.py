"""Sequences of tensors and optional values, which exist at import only."""

from collections.abc import Mapping, Sequence

from tvm import relax

from hios_tvm.frontends.onnx.operators.call import (
    Converter,
    OperatorCall,
    Value,
)
from hios_tvm.frontends.onnx.operators.shapes import split_sizes, split_tensor
from hios_tvm.frontends.tensors import constant, shape_of


def sequence_empty(call: OperatorCall) -> Value:
    call.attributes.ignore("dtype")
    return ()


def sequence_insert(call: OperatorCall) -> Value:
    values = call.sequence(0)
    index = _position(call, 2, len(values), is_end_allowed=True)
    return (*values[:index], call.tensor(1), *values[index:])


def sequence_erase(call: OperatorCall) -> Value:
    values = call.sequence(0)
    index = _position(call, 1, len(values))
    return (*values[:index], *values[index + 1 :])


def sequence_at(call: OperatorCall) -> Value:
    values = call.sequence(0)
    return values[_position(call, 1, len(values))]


def _position(call: OperatorCall, index: int, count: int, is_end_allowed: bool = False) -> int:
    """A position in a sequence; the last one, or the end, where it is left out."""
    places = count + 1 if is_end_allowed else count
    given = call.integers(index, "its positions")
    position = given[0] if given is not None else places - 1
    if not -count <= position < places:
        raise ValueError(f"position {position} is not in a sequence of {count} tensors")
    return position + count if position < 0 else position


def split_to_sequence(call: OperatorCall) -> Value:
    """Into single rows, into parts of one size of which the last may be smaller, or as given."""
    data = call.tensor(0)
    shape = shape_of(data)
    axis = call.axis(len(shape), default=0)
    keep = call.attributes.flag("keepdims", True)
    if call.argument(1) is None:
        parts = split_tensor(call, data, axis, [1] * shape[axis])
        row = (*shape[:axis], *([1] if keep else []), *shape[axis + 1 :])
        return tuple(call.reshape(part, row) for part in parts)
    sizes = call.constant(1, "the sizes of its parts")
    if sizes.ndim > 0:
        return tuple(split_tensor(call, data, axis, [int(part) for part in sizes]))
    if int(sizes) < 1:
        raise ValueError(f"its parts have a size of {int(sizes)}")
    return tuple(split_tensor(call, data, axis, split_sizes(shape[axis], int(sizes))))


def concat_from_sequence(call: OperatorCall) -> Value:
    tensors = call.sequence(0)
    if not tensors:
        raise ValueError("its sequence is empty")
    if not all(isinstance(value, relax.Expr) for value in tensors):
        raise ValueError("its sequence holds something that is no tensor")
    is_new = call.attributes.flag("new_axis")
    axis = call.axis(len(shape_of(tensors[0])) + is_new)
    return stack(call, tensors, axis) if is_new else call.concatenate(tensors, axis)


def stack(call: OperatorCall, tensors: Sequence[relax.Expr], axis: int) -> relax.Expr:
    """Join tensors of one shape along a new axis."""
    shape = list(shape_of(tensors[0]))
    if any(list(shape_of(tensor)) != shape for tensor in tensors):
        shapes = ", ".join(str(list(shape_of(tensor))) for tensor in tensors)
        raise ValueError(f"tensors of the shapes {shapes} cannot be stacked")
    shape.insert(axis, 1)
    return call.concatenate([call.reshape(tensor, shape) for tensor in tensors], axis)


def sequence_map(call: OperatorCall) -> list[Value]:
    """Other sequences give one element each to every call of the body; tensors are the same."""
    body = call.attributes.graph("body")
    count = len(call.sequence(0))
    if any(isinstance(value, tuple) and len(value) != count for value in call.arguments):
        raise ValueError("its sequences have different lengths")
    results = [
        call.import_graph(
            body, [value[i] if isinstance(value, tuple) else value for value in call.arguments]
        )
        for i in range(count)
    ]
    return [tuple(result[k] for result in results) for k in range(len(body.output))]


# --- Optional values ---


def optional(call: OperatorCall) -> Value:
    call.attributes.ignore("type")
    return call.argument(0)


def optional_get_element(call: OperatorCall) -> Value:
    value = call.argument(0)
    if value is None:
        raise ValueError("its optional input has no value")
    return value


OPERATORS: Mapping[str, Converter] = {
    "ConcatFromSequence": concat_from_sequence,
    "Optional": optional,
    "OptionalGetElement": optional_get_element,
    "OptionalHasElement": lambda call: constant(call.argument(0) is not None, "bool"),
    "SequenceAt": sequence_at,
    "SequenceConstruct": lambda call: tuple(call.tensors()),
    "SequenceEmpty": sequence_empty,
    "SequenceErase": sequence_erase,
    "SequenceInsert": sequence_insert,
    "SequenceLength": lambda call: constant(len(call.sequence(0)), "int64"),
    "SequenceMap": sequence_map,
    "SplitToSequence": split_to_sequence,
}
