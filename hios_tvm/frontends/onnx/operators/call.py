"""One call of an ONNX operator, as the functions that convert operators see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from onnx import GraphProto
from tvm import relax

from hios_tvm.errors import DynamicShapeError, UnsupportedOperatorError
from hios_tvm.frontends.onnx.attributes import Attributes
from hios_tvm.frontends.tensors import TensorBuilder, array_of, shape_of

Value: TypeAlias = "relax.Expr | tuple[Value, ...] | None"
"""A tensor, a sequence of values, or an optional without a value."""


@dataclass(frozen=True, kw_only=True)
class OperatorCall(TensorBuilder):
    """A node: its inputs and attributes, and the builder that takes bindings.

    A converter raises a `ValueError` where the node breaks a rule of the standard; the importer
    says which node it was.

    Attributes
    ----------
    version : int
        Version of the operator set that the model uses (not the operator's own version).
    arguments : tuple of Value
        None where an optional input is left out, which may also be missing at the end.
    num_outputs : int
        Outputs of the node, those without a name included.
    is_used : tuple of bool
        Which outputs have a name.
    model : str
        Its name, for messages.
    import_graph : callable
        Converts a subgraph, given values for its inputs, and returns those of its outputs.
    """

    version: int
    arguments: tuple[Value, ...]
    attributes: Attributes
    is_used: tuple[bool, ...]
    model: str
    import_graph: Callable[[GraphProto, Sequence[Value]], list[Value]]

    @property
    def place(self) -> str:
        """Model, operator and node, for messages."""
        return f"{self.model}: {self.operator}"

    @property
    def num_outputs(self) -> int:
        return len(self.is_used)

    # --- Inputs ---

    def argument(self, index: int) -> Value:
        """The input at `index`; None where it is left out."""
        return self.arguments[index] if index < len(self.arguments) else None

    def tensor(self, index: int) -> relax.Expr:
        """The input at `index`, which must be a tensor."""
        value = self.argument(index)
        if not isinstance(value, relax.Expr):
            raise ValueError(f"input {index + 1} must be a tensor")
        return value

    def optional_tensor(self, index: int) -> relax.Expr | None:
        """The input at `index`, or None where it is left out."""
        return None if self.argument(index) is None else self.tensor(index)

    def tensors(self) -> list[relax.Expr]:
        """All inputs of an operator that takes any number of tensors."""
        return [self.tensor(i) for i in range(len(self.arguments))]

    def sequence(self, index: int) -> tuple[Value, ...]:
        """The input at `index`, which must be a sequence."""
        value = self.argument(index)
        if not isinstance(value, tuple):
            raise ValueError(f"input {index + 1} must be a sequence")
        return value

    def constant(self, index: int, what: str) -> np.ndarray:
        """The elements of the input at `index`, which must be known now.

        `what` names the input in the error, such as "its axes".
        """
        array = array_of(self.tensor(index))
        if array is None:
            raise self.depends_on_data(what)
        return array

    def integers(self, index: int, what: str) -> list[int] | None:
        """The elements of a vector of integers that must be known now; None if it is left out."""
        if self.argument(index) is None:
            return None
        return [int(value) for value in self.constant(index, what).ravel()]

    # --- Axes ---

    def axis(self, rank: int, default: int | None = None, name: str = "axis") -> int:
        """An attribute that counts axes, from 0."""
        return normalized_axis(self.attributes.integer(name, default), rank, name)

    # --- Results ---

    def broadcast(self, tensor: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """Repeat elements along dimensions of extent 1, and along new ones in front."""
        if shape_of(tensor) == tuple(shape):
            return tensor
        return self.emit(relax.op.broadcast_to(tensor, list(shape)))

    # --- Errors ---

    def unsupported(self, reason: str) -> UnsupportedOperatorError:
        """What to raise for a valid node that cannot be imported; `reason` is a clause."""
        return UnsupportedOperatorError(
            f"{self.place}: cannot import it: {reason}", operators=(self.name,)
        )

    def depends_on_data(self, what: str) -> DynamicShapeError:
        """What to raise where a shape depends on the values of inputs."""
        return DynamicShapeError(
            f"{self.place}: {what} are not known before the model runs; only models with static "
            "shapes can be compiled",
            dimensions=(self.place,),
        )


def normalized_axis(axis: int, rank: int, name: str = "axis") -> int:
    """Count an axis from 0.

    Raises
    ------
    ValueError
        If it is not an axis of `rank` dimensions.

    Examples
    --------
    >>> normalized_axis(-1, 4)
    3
    """
    if not -rank <= axis < rank:
        raise ValueError(f"{name} {axis} is not an axis of {rank} dimensions")
    return axis % rank


def normalized_axes(axes: Sequence[int], rank: int, name: str = "axis") -> list[int]:
    """Count axes from 0, each of which may be named once."""
    result = [normalized_axis(axis, rank, name) for axis in axes]
    if len(set(result)) < len(result):
        raise ValueError(f"{list(axes)} names an axis twice")
    return result


Converter: TypeAlias = "Callable[[OperatorCall], Value | list[Value]]"
"""Returns the node's only output, or a list of its outputs, unnamed ones included."""
