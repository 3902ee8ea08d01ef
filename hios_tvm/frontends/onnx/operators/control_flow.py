"""Control flow that is decided at import: branches are chosen, loops are unrolled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ValueInfoProto, helper
from tvm import relax

from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value, normalized_axis
from hios_tvm.frontends.onnx.operators.sequences import stack
from hios_tvm.frontends.tensors import array_of, constant, dtype_of, shape_of

MAX_ITERATIONS = 1000
"""Every iteration adds operators of its own, which take time to compile."""


def if_(call: OperatorCall) -> list[Value]:
    is_true = _known_condition(call, call.tensor(0), "the condition")
    branches = [call.attributes.graph(name) for name in ("else_branch", "then_branch")]
    return call.import_graph(branches[is_true], [])


def _known_condition(call: OperatorCall, condition: Value, what: str) -> bool:
    array = array_of(condition)
    if array is None:
        raise call.unsupported(
            f"{what} depends on data; export the model for one case, or replace it by Where"
        )
    if array.size != 1:
        raise ValueError(f"{what} has {array.size} elements, it must have one")
    return bool(array.reshape(-1)[0])


# --- Loop ---


def loop(call: OperatorCall) -> list[Value]:
    """Without a condition among its inputs the body's own condition counts only if it is known."""
    body = call.attributes.graph("body")
    limit, condition = call.integers(0, "its iterations"), call.argument(1)
    is_going = condition is None or _known_condition(call, condition, "its condition")
    state: list[Value] = list(call.arguments[2:])
    results: list[list[relax.Expr]] = [[] for _ in body.output[1 + len(state) :]]
    iteration = 0
    while is_going and (limit is None or iteration < limit[0]):
        _check_iterations(call, iteration + 1)
        outputs = call.import_graph(body, [*_counters(body, iteration), *state])
        state = outputs[1 : 1 + len(state)]
        for values, output in zip(results, outputs[1 + len(state) :], strict=True):
            values.append(_tensor(output))
        if condition is not None or array_of(outputs[0]) is not None:
            is_going = _known_condition(call, outputs[0], "the condition of its body")
        iteration += 1
    declared = body.output[1 + len(state) :]
    stacked = [
        _joined(call, values, 0, value) for values, value in zip(results, declared, strict=True)
    ]
    return [*state, *stacked]


def _check_iterations(call: OperatorCall, count: int) -> None:
    if count > MAX_ITERATIONS:
        raise call.unsupported(
            f"it has more than {MAX_ITERATIONS} iterations; express it by operators on whole "
            "tensors"
        )


def _counters(body: GraphProto, iteration: int) -> list[relax.Expr]:
    """The iteration and the condition, as scalars or as vectors of one element."""
    ranks = [len(value.type.tensor_type.shape.dim) for value in body.input[:2]]
    return [
        constant(np.full((1,) * rank, value), dtype)
        for rank, value, dtype in zip(ranks, (iteration, True), ("int64", "bool"), strict=True)
    ]


def _joined(
    call: OperatorCall, values: Sequence[relax.Expr], axis: int, declared: ValueInfoProto
) -> relax.Expr:
    """What a body gave in all iterations; of no iterations as far as it is declared."""
    if values:
        return stack(call, values, normalized_axis(axis, len(shape_of(values[0])) + 1))
    kind = declared.type.tensor_type
    shape = [size.dim_value for size in kind.shape.dim]
    if not kind.elem_type or not kind.HasField("shape"):
        raise call.unsupported(
            f"it has no iterations, and the type of {declared.name!r} is not declared"
        )
    shape.insert(normalized_axis(axis, len(shape) + 1), 0)
    return call.empty(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type).name)


def _tensor(value: Value) -> relax.Expr:
    if not isinstance(value, relax.Expr):
        raise ValueError("an output of its body that is collected is no tensor")
    return value


# --- Scan ---


@dataclass(frozen=True)
class _Scan:
    """The body of a Scan, and how it goes through its inputs."""

    body: GraphProto
    input_axes: Sequence[int]
    input_directions: Sequence[int]
    output_axes: Sequence[int]
    output_directions: Sequence[int]


def scan(call: OperatorCall) -> list[Value]:
    """Version 8 has sequence lengths and a batch in front of everything."""
    if call.version < 9:
        return _batched_scan(call)
    body, attributes = call.attributes.graph("body"), call.attributes
    count = attributes.integer("num_scan_inputs")
    num_states = len(call.arguments) - count
    zeros = [0] * (len(body.output) - num_states)
    scan = _Scan(
        body,
        attributes.integers("scan_input_axes", [0] * count),
        attributes.integers("scan_input_directions", [0] * count),
        attributes.integers("scan_output_axes", zeros),
        attributes.integers("scan_output_directions", zeros),
    )
    values = call.tensors()
    return [*_run_scan(call, scan, values[:num_states], values[num_states:], None)]


def _batched_scan(call: OperatorCall) -> list[Value]:
    body, attributes = call.attributes.graph("body"), call.attributes
    count = attributes.integer("num_scan_inputs")
    values = [call.tensor(i) for i in range(1, len(call.arguments))]
    num_states = len(values) - count
    zeros = [0] * (len(body.output) - num_states)
    directions = attributes.integers("directions", [0] * count)
    scan = _Scan(body, [0] * count, directions, zeros, zeros)
    batch = shape_of(values[0])[0]
    lengths = call.integers(0, "the lengths of its sequences")
    results = []
    for i in range(batch):
        sample = [_element(call, value, 0, i) for value in values]
        length = None if lengths is None else lengths[i]
        results.append(_run_scan(call, scan, sample[:num_states], sample[num_states:], length))
    return [stack(call, [result[k] for result in results], 0) for k in range(len(body.output))]


def _run_scan(
    call: OperatorCall,
    scan: _Scan,
    state: Sequence[relax.Expr],
    inputs: Sequence[relax.Expr],
    length: int | None,
) -> list[relax.Expr]:
    """Final states and collected outputs; shorter sequences are followed by zeros."""
    axes = [
        normalized_axis(axis, len(shape_of(tensor)))
        for axis, tensor in zip(scan.input_axes, inputs, strict=True)
    ]
    extents = {shape_of(tensor)[axis] for axis, tensor in zip(axes, inputs, strict=True)}
    if len(extents) != 1:
        raise ValueError("its inputs have different numbers of elements along their axes")
    (extent,) = extents
    count = extent if length is None else min(length, extent)
    _check_iterations(call, count)
    collected: list[list[relax.Expr]] = [[] for _ in scan.output_axes]
    state = list(state)
    for i in range(count):
        elements = [
            _element(call, tensor, axis, count - 1 - i if is_reverse else i)
            for tensor, axis, is_reverse in zip(inputs, axes, scan.input_directions, strict=True)
        ]
        outputs = [_tensor(value) for value in call.import_graph(scan.body, [*state, *elements])]
        state = outputs[: len(state)]
        for values, output in zip(collected, outputs[len(state) :], strict=True):
            values.append(output)
    declared = scan.body.output[len(state) :]
    results = []
    for k, values in enumerate(collected):
        values = values[::-1] if scan.output_directions[k] else values
        if values and count < extent:
            zero = call.emit(relax.op.zeros(list(shape_of(values[0])), dtype_of(values[0])))
            values = values + [zero] * (extent - count)
        results.append(_joined(call, values, scan.output_axes[k], declared[k]))
    return [*state, *results]


def _element(call: OperatorCall, tensor: relax.Expr, axis: int, index: int) -> relax.Expr:
    shape = shape_of(tensor)
    row = call.slice(tensor, {axis: range(index, index + 1)})
    return call.reshape(row, (*shape[:axis], *shape[axis + 1 :]))


OPERATORS: Mapping[str, Converter] = {"If": if_, "Loop": loop, "Scan": scan}
