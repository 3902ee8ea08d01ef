"""What ONNX Runtime computes, and how far its own results can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from random_networks.builder import load_session
from random_networks.network import Array, Network

TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-5, "float64": 1e-6}
"""Largest error of an output, relative to its largest magnitude; float16 anywhere counts for all.

ONNX Runtime computes chains of float16 in float32, and does not always round between their nodes.
ONNX has some steps of float64 networks computed in float32, such as statistics of normalizations.
"""

CASTS = ("Cast", "CastLike")
ORDERINGS = ("ArgMax", "ArgMin", "Hardmax", "TopK")
EXTREMA = ("GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMin")
"""Where one number is NaN, so is our result; ONNX Runtime's depends on the places."""


SPREADS = 4.0
"""An error of so many times the reference's own spread is allowed."""


@dataclass(frozen=True)
class Reference:
    """ONNX Runtime's outputs, and the spread of each element between its own evaluations.

    The evaluations are those with and without optimisations, and those with each input moved by
    the smallest step. Where an element's spread is large, its value is an accident of rounding.
    """

    outputs: Mapping[str, Array]
    spread: Mapping[str, Array]
    has_float16: bool = False

    def difference(self, actual: Mapping[str, Array]) -> str | None:
        """Return what is wrong with these outputs; None where they are right."""
        if list(actual) != list(self.outputs):
            return f"outputs: {list(actual)}, not {list(self.outputs)}"
        for name, expected in self.outputs.items():
            types = ["float16", str(expected.dtype)] if self.has_float16 else [str(expected.dtype)]
            tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in types)
            problem = _difference(actual[name], expected, self.spread[name], tolerance)
            if problem:
                return f"output {name!r}: {problem}"
        return None


def reference_of(network: Network, *, moves: int = 2) -> Reference:
    """Evaluate a network in ONNX Runtime several times, `moves` of them on moved inputs.

    Raises
    ------
    ValueError
        If a result is not defined, or its shape depends on rounding.
    """
    unoptimised = load_session(network.model, optimise=False)
    optimised = load_session(network.model, optimise=True)
    feeds = dict(network.inputs)
    _check_defined(network)
    rng = np.random.default_rng(0)
    moved = [{name: _moved(value, rng) for name, value in feeds.items()} for _ in range(moves)]
    runs = [
        unoptimised.run(None, feeds),
        optimised.run(None, feeds),
        *(optimised.run(None, other) for other in moved),
    ]
    columns = [[np.asarray(value) for value in column] for column in zip(*runs, strict=True)]
    names = network.outputs
    return Reference(
        {name: column[0] for name, column in zip(names, columns, strict=True)},
        {name: _spread(column) for name, column in zip(names, columns, strict=True)},
        _has_float16(network.model.graph),
    )


def standard_of(network: Network) -> Reference:
    """Evaluate a network in ONNX's own reference implementation."""
    results = ReferenceEvaluator(network.model).run(None, dict(network.inputs))
    outputs = dict(zip(network.outputs, map(np.asarray, results), strict=True))
    spread = {name: np.zeros(value.shape) for name, value in outputs.items()}
    return Reference(outputs, spread, _has_float16(network.model.graph))


def _has_float16(graph: onnx.GraphProto) -> bool:
    types = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    types |= {tensor.data_type for tensor in graph.initializer}
    casts = [a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"]
    return onnx.TensorProto.FLOAT16 in types.union(casts)


def _check_defined(network: Network) -> None:
    """Raise ValueError where ONNX does not define a result.

    That is the order of NaN, and the conversion of a float to an integer that cannot hold it.
    """
    nodes = [n for n in network.model.graph.node if n.op_type in (*CASTS, *ORDERINGS, *EXTREMA)]
    names = [name for node in nodes for name in (node.input[0], node.output[0])]
    values = values_of(network, [name for name in dict.fromkeys(names) if name])
    for node in nodes:
        before, after = values.get(node.input[0]), values.get(node.output[0])
        if before is None or after is None or before.dtype.kind != "f":
            continue
        if node.op_type in (*ORDERINGS, *EXTREMA) and bool(np.isnan(before).any()):
            raise ValueError(f"{node.op_type} {node.output[0]!r} orders NaN")
        if node.op_type in CASTS and after.dtype.kind in "iu":
            limits, wide = np.iinfo(after.dtype), np.trunc(before.astype(np.float64))
            if not bool(((wide >= limits.min) & (wide <= limits.max)).all()):
                raise ValueError(f"{node.output[0]!r}: {after.dtype} cannot hold what is cast")


def values_of(network: Network, names: Sequence[str]) -> dict[str, Array]:
    """Return the inputs, and the results called `names`; no optimisations change them."""
    made = {name for node in network.model.graph.node for name in node.output}
    wanted = [name for name in names if name in made]
    if not wanted:
        return dict(network.inputs)
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    results = load_session(model, optimise=False).run(None, dict(network.inputs))
    return {**network.inputs, **dict(zip(wanted, map(np.asarray, results), strict=True))}


def _moved(value: Array, rng: np.random.Generator) -> Array:
    """Return floats moved to one of their neighbours."""
    if value.dtype.kind != "f":
        return value
    towards = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
    return np.where(np.isfinite(value), np.nextafter(value, towards), value)


def _spread(values: list[Array]) -> Array:
    """Return the largest distance of each element from the first evaluation."""
    if any(value.shape != values[0].shape for value in values):
        raise ValueError("the shape depends on rounding")
    first = values[0].astype(np.float64)
    with np.errstate(invalid="ignore"):
        distances = [np.abs(value.astype(np.float64) - first) for value in values[1:]]
    spread: Array = np.nan_to_num(np.max(distances, axis=0), nan=0.0)
    return spread


def _difference(actual: Array, expected: Array, spread: Array, tolerance: float) -> str | None:
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return f"{actual.dtype}{actual.shape}, not {expected.dtype}{expected.shape}"
    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(ours - theirs)
    special = ~(np.isfinite(ours) & np.isfinite(theirs))
    same = (actual == expected) | (np.isnan(ours) & np.isnan(theirs))
    error = np.where(special, np.where(same, 0.0, np.inf), error)
    if expected.dtype.kind != "f":
        error = np.where(same, 0.0, np.maximum(error, 1.0))  # float64 does not tell all int64 apart
    finite = np.abs(theirs[np.isfinite(theirs)])
    if expected.dtype.kind != "f":
        tolerance = 0.0
    base = tolerance * max(finite.max(initial=0.0), 1e-6)
    # A sum that is rounded otherwise is off by as much as its largest elements are.
    allowed = np.maximum(base, SPREADS * spread)
    if expected.dtype.kind == "f":
        allowed = np.maximum(allowed, SPREADS * _typical(spread))
    if bool((error <= allowed).all()):
        return None
    worst = np.unravel_index(np.argmax(error - allowed), error.shape)
    wrong = int((error > allowed).sum())
    at = tuple(int(i) for i in worst)
    return f"{actual[worst]} at {at}, not {expected[worst]}; {wrong} of {error.size} are wrong"


def _typical(spread: Array) -> float:
    return float(np.quantile(spread, 0.9)) if spread.size else 0.0
