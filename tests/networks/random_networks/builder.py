"""A network that grows node by node; ONNX Runtime computes each node as soon as it is added.

So every tensor has its value: patterns read shapes and types from it, and what ONNX Runtime
refuses, or what would explode, is found at once and drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from random_networks.network import Array, Network

EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17)
CHANNELS = (1, 2, 3, 4, 6, 7, 8, 16, 17, 20, 32, 33, 65)
LARGEST_TENSOR = 40_000
LARGEST_NUMBER = 1e3
KIND_TYPES = {
    "f": ("float32", "float64", "float16"),
    "i": ("int64", "int32", "int8", "uint8"),
    "b": ("bool",),
}


class Redraw(Exception):
    """What was drawn is no network to test: ONNX Runtime refuses it, or its numbers explode."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the network and its value; `is_constant` means an initializer."""

    name: str
    value: Array
    is_constant: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def rank(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def is_finite(self) -> bool:
        return self.dtype.kind != "f" or bool(np.isfinite(self.value).all())

    @property
    def element(self) -> int:
        """ONNX's number of the type."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))


class Builder:
    """The network so far, and the random numbers that it is drawn with.

    `tensors` are the inputs and the results of nodes, which later patterns may read;
    `float_type` is the type of most of them.
    """

    def __init__(self, rng: np.random.Generator, opset: int, float_type: str = "float32") -> None:
        self.rng = rng
        self.opset = opset
        self.float_type = np.dtype(float_type)
        self.batch = self.one_of(1, 1, 2, 3)
        self.tensors: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._nodes: list[onnx.NodeProto] = []
        self._names = 0

    # Random choices

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one_of(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def integer(self, low: int, high: int) -> int:
        """Return one of low, low + 1, ..., high."""
        return int(self.rng.integers(low, high + 1))

    def axes(self, rank: int, count: int | None = None) -> list[int]:
        """Return `count` axes, by default any number; some are counted from the end."""
        count = self.integer(1, rank) if count is None else count
        chosen = sorted(int(axis) for axis in self.rng.permutation(rank)[:count])
        return [axis - rank if self.chance(0.3) else axis for axis in chosen]

    def axis(self, rank: int) -> int:
        return self.integer(-rank, rank - 1)

    def shape(self, rank: int) -> tuple[int, ...]:
        """Return a shape: batch, channels and odd extents."""
        if rank < 3:
            return tuple(self.one_of(*EXTENTS) for _ in range(rank))
        most = {3: 17, 4: 13}.get(rank, 6)
        extents = [extent for extent in EXTENTS if extent <= most]
        channels = [extent for extent in CHANNELS if rank < 5 or extent <= 8]
        spatial = (self.one_of(*extents) for _ in range(rank - 2))
        return (self.batch, self.one_of(*channels), *spatial)

    def noise(self, shape: Sequence[int], dtype: Any) -> Array:
        """Return values of about 1; integers are small."""
        kind = np.dtype(dtype).kind
        if kind == "b":
            return self.rng.random(tuple(shape)) < 0.5
        if kind in "iu":
            return self.rng.integers(0 if kind == "u" else -4, 9, tuple(shape)).astype(dtype)
        return self.rng.standard_normal(tuple(shape)).astype(dtype)

    # Tensors

    def input(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        return self.feed(self.noise(shape, self.float_type if dtype is None else dtype))

    def feed(self, value: Array) -> Tensor:
        """Return a new input of these values."""
        if value.size > LARGEST_TENSOR:
            raise Redraw(f"an input of {value.size} elements")
        tensor = Tensor(self._name("x"), value)
        self._inputs.append(tensor)
        self.tensors.append(tensor)
        return tensor

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        tensor = Tensor(self._name("w"), np.asarray(value, dtype), is_constant=True)
        self._weights.append(tensor)
        return tensor

    def weight(self, shape: Sequence[int], dtype: Any = None, *, fan_in: float = 1.0) -> Tensor:
        """Return a weight whose products with values of about 1 sum up to about 1."""
        dtype = self.float_type if dtype is None else dtype
        value = self.noise(shape, dtype)
        if np.dtype(dtype).kind == "f":
            value = (value / np.sqrt(max(fan_in, 1))).astype(dtype)
        return self.constant(value)

    def operand(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        """Return a tensor of this shape: one that exists, or a new weight or input."""
        dtype = self.float_type if dtype is None else dtype
        same = [t for t in self.tensors if t.shape == tuple(shape) and t.dtype == dtype]
        if same and self.chance(0.5):
            return same[self.rng.integers(len(same))]
        return self.weight(shape, dtype) if self.chance(0.6) else self.input(shape, dtype)

    def pick(
        self,
        *ranks: int,
        kind: str = "f",
        where: Callable[[Tensor], bool] = lambda tensor: True,
    ) -> Tensor:
        """Return a tensor of one of these ranks, mostly a late one, or else a new input.

        `kind` is ``"f"``, ``"i"``, ``"b"``, or several of them.
        """
        ranks = ranks or (1, 2, 3, 4, 5)
        found = [
            tensor
            for tensor in self.tensors
            if tensor.rank in ranks and tensor.dtype.kind.replace("u", "i") in kind
            if tensor.is_finite and where(tensor)
        ]
        if found and self.chance(0.9):
            late = found[-3:] if self.chance(0.7) else found
            return late[self.rng.integers(len(late))]
        for _ in range(20):
            tensor = self.input(self.shape(self.one_of(*ranks)), self.type_of(kind))
            if where(tensor):
                return tensor
            self.tensors.remove(tensor)
            self._inputs.remove(tensor)
        raise Redraw("no tensor is as it was asked for")

    def type_of(self, kind: str) -> np.dtype[Any]:
        """Return a type of this kind; of floats, that of the network."""
        kind = self.one_of(*kind)
        return self.float_type if kind == "f" else np.dtype(self.one_of(*KIND_TYPES[kind]))

    # Nodes

    def add(self, operator: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """Append a node of one output, and return that."""
        return self.add_many(operator, *inputs, outputs=1, **attributes)[0]

    def add_many(
        self, operator: str, *inputs: Tensor | None, outputs: int, **attributes: Any
    ) -> list[Tensor]:
        """Append a node; an input of None is left out, as are attributes of None."""
        names = [self._name("t") for _ in range(outputs)]
        node = helper.make_node(
            operator, ["" if t is None else t.name for t in inputs], names, **_given(attributes)
        )
        values = self._compute(node, [tensor for tensor in inputs if tensor is not None])
        if all(tensor.is_finite for tensor in inputs if tensor is not None):
            for value in values:
                _check_numbers(operator, value)
        self._nodes.append(node)
        results = [Tensor(name, value) for name, value in zip(names, values, strict=True)]
        self.tensors.extend(results)
        return results

    def _compute(self, node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Array]:
        unique = {tensor.name: tensor for tensor in inputs}
        feeds = [tensor for tensor in unique.values() if not tensor.is_constant]
        model = self._model([node], feeds, [t for t in unique.values() if t.is_constant])
        try:
            session = load_session(model, optimise=False)
            return [
                np.asarray(value) for value in session.run(None, {t.name: t.value for t in feeds})
            ]
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise Redraw(f"ONNX Runtime: {node.op_type}: {error}") from error

    def _model(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[Tensor],
        weights: Sequence[Tensor],
        outputs: Sequence[onnx.ValueInfoProto] | None = None,
    ) -> onnx.ModelProto:
        if outputs is None:
            outputs = [onnx.ValueInfoProto(name=name) for name in nodes[-1].output]
        graph = helper.make_graph(
            nodes,
            "random",
            [_value_info(tensor) for tensor in inputs],
            outputs,
            [numpy_helper.from_array(tensor.value, tensor.name) for tensor in weights],
        )
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=max(4, helper.find_min_ir_version_for(imports))
        )

    # The network as a whole

    def mark(self) -> tuple[int, ...]:
        """Return the present state, for `reset`."""
        lists = (self.tensors, self._inputs, self._weights, self._nodes)
        return tuple(len(items) for items in lists)

    def reset(self, mark: tuple[int, ...]) -> None:
        """Take back all that was added since `mark`."""
        lists: tuple[list[Any], ...] = (self.tensors, self._inputs, self._weights, self._nodes)
        for items, length in zip(lists, mark, strict=True):
            del items[length:]

    def network(self) -> Network:
        """Return the network; its outputs are what nobody reads, and now and then more."""
        read = {name for node in self._nodes for name in node.input}
        made = {name for node in self._nodes for name in node.output}
        results = [t for t in self.tensors if t.name in made]
        outputs = [t for t in results if t.name not in read or self.chance(0.08)]
        model = self._model(
            self._nodes,
            [tensor for tensor in self._inputs if tensor.name in read],
            [tensor for tensor in self._weights if tensor.name in read],
            [_value_info(tensor) for tensor in outputs],
        )
        inputs = {tensor.name: tensor.value for tensor in self._inputs if tensor.name in read}
        return Network(model, inputs)

    @property
    def size(self) -> int:
        """The number of nodes."""
        return len(self._nodes)

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"


def load_session(model: onnx.ModelProto, *, optimise: bool) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _given(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.element, tensor.shape)


def _check_numbers(operator: str, value: Array) -> None:
    if not 0 < value.size <= LARGEST_TENSOR:
        raise Redraw(f"{operator} makes {value.size} elements")
    if value.dtype.kind == "f":
        largest = float(np.abs(value.astype(np.float64)).max())
        if not largest < LARGEST_NUMBER:
            raise Redraw(f"{operator} makes {largest}")
