"""The operator graph: one fused kernel call per operator, tensors between them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from hios_tvm.errors import GraphError
from hios_tvm.schema.dtypes import tensor_bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor of static shape; `name` is unique in its graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class Operator:
    """One call of a kernel.

    `inputs` and `outputs` name tensors in the order of its arguments, `nodes` those of the model's
    nodes that it came from, the most important first.
    """

    name: str
    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """The tensors that `dst` reads from `src`, and their bytes."""

    src: str
    dst: str
    tensors: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class OperatorGraph:
    """Operators in topological order, and the tensors that they read and write.

    `inputs` are the model's inputs, `constants` its weights, `outputs` its results; all three
    name tensors, in the order of the model. Every other tensor is written by one operator.

    Raises
    ------
    GraphError
        If a name is used twice, a tensor is unknown, or an operator reads what only a later
        one writes (a cycle, or operators that are not in topological order).
    """

    name: str
    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _reject_duplicates("operator", [operator.name for operator in self.operators])
        _reject_duplicates("tensor", [tensor.name for tensor in self.tensors])
        known = {tensor.name for tensor in self.tensors}
        written = set(self.inputs) | set(self.constants)
        for operator in self.operators:
            for tensor in (*operator.inputs, *operator.outputs):
                if tensor not in known:
                    raise GraphError(f"operator {operator.name!r} uses unknown tensor {tensor!r}")
            for tensor in operator.inputs:
                if tensor not in written:
                    raise GraphError(
                        f"operator {operator.name!r} reads {tensor!r} before it is written: "
                        "the graph has a cycle or is not in topological order"
                    )
            for tensor in operator.outputs:
                if tensor in written:
                    raise GraphError(f"tensor {tensor!r} is written twice")
                written.add(tensor)
        for tensor in self.outputs:
            if tensor not in written:
                raise GraphError(f"output {tensor!r} is never written")

    @cached_property
    def operator(self) -> Mapping[str, Operator]:
        """Operators by name."""
        return {operator.name: operator for operator in self.operators}

    @cached_property
    def tensor(self) -> Mapping[str, Tensor]:
        """Tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def producer(self) -> Mapping[str, str]:
        """Name of the operator that writes a tensor; inputs and constants are absent."""
        return {tensor: op.name for op in self.operators for tensor in op.outputs}

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Data edges ordered by consumer; several tensors between two operators are one edge."""
        edges = []
        for operator in self.operators:
            tensors_from: dict[str, list[str]] = {}
            for tensor in dict.fromkeys(operator.inputs):
                if tensor in self.producer:
                    tensors_from.setdefault(self.producer[tensor], []).append(tensor)
            for src, tensors in tensors_from.items():
                nbytes = sum(self.tensor[tensor].nbytes for tensor in tensors)
                edges.append(Edge(src, operator.name, tuple(tensors), nbytes))
        return tuple(edges)

    def weight_bytes(self, operators: Iterable[str]) -> int:
        """Bytes of all weights that `operators` read, each counted once."""
        constants = set(self.constants)
        read = {
            tensor
            for name in operators
            for tensor in self.operator[name].inputs
            if tensor in constants
        }
        return sum(self.tensor[tensor].nbytes for tensor in read)

    @cached_property
    def activation_bytes(self) -> int:
        """The most bytes that are alive at once while operators run in order, weights left out."""
        last_use = {tensor: i for i, op in enumerate(self.operators) for tensor in op.inputs}
        last_use.update(dict.fromkeys(self.outputs, len(self.operators)))
        alive = most = sum(self.tensor[tensor].nbytes for tensor in self.inputs)
        constants = set(self.constants)
        for i, operator in enumerate(self.operators):
            alive += sum(self.tensor[tensor].nbytes for tensor in operator.outputs)
            most = max(most, alive)
            ended = {t for t in (*operator.inputs, *operator.outputs) if last_use.get(t, i) == i}
            alive -= sum(self.tensor[tensor].nbytes for tensor in ended - constants)
        return most


def _reject_duplicates(what: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GraphError(f"{what} names must be unique; used twice: {', '.join(twice[:5])}")
