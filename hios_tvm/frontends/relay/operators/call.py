"""One call of a Relay operator, as the functions that convert operators see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tvm import relax

from hios_tvm.errors import RelayError, UnsupportedOperatorError
from hios_tvm.frontends.relay.attributes import Attributes
from hios_tvm.frontends.relay.syntax import Position
from hios_tvm.frontends.relay.values import Value, describe
from hios_tvm.frontends.tensors import TensorBuilder, array_of


@dataclass(frozen=True, kw_only=True)
class OperatorCall(TensorBuilder):
    """The operator's name, its arguments and attributes, and the builder that takes bindings."""

    arguments: tuple[Value, ...]
    attributes: Attributes
    position: Position

    # --- Arguments ---

    def tensor(self, index: int) -> relax.Expr:
        """The argument at `index`, which must be a tensor."""
        if index >= len(self.arguments):
            raise self.error(f"argument {index + 1} is missing")
        value = self.arguments[index]
        if not isinstance(value, relax.Expr):
            raise self.error(f"argument {index + 1} must be a tensor, not {describe(value)}")
        return value

    def tensors(self, index: int) -> list[relax.Expr]:
        """The argument at `index`, which must be a tuple of tensors."""
        value = self.arguments[index] if index < len(self.arguments) else None
        if isinstance(value, tuple):
            parts = [part for part in value if isinstance(part, relax.Expr)]
            if parts and len(parts) == len(value):
                return parts
        raise self.error(f"argument {index + 1} must be a tuple of tensors")

    def constant(self, index: int) -> np.ndarray:
        """The elements of the argument at `index`, which must be known now."""
        array = array_of(self.tensor(index))
        if array is None:
            raise self.unsupported(f"with argument {index + 1} known only at run time")
        return array

    def axis(self, rank: int, name: str = "axis", default: int | None = None) -> int:
        """An attribute that counts axes, from 0."""
        axis = self.attributes.integer(name, default)
        if not -rank <= axis < rank:
            raise self.error(f"{name} {axis} is not an axis of {rank} dimensions")
        return axis % rank

    # --- Errors ---

    def error(self, message: str) -> RelayError:
        return self.position.error(f"{self.name}: {message}")

    def unsupported(self, message: str) -> UnsupportedOperatorError:
        return UnsupportedOperatorError(
            f"{self.position}: {self.name} {message} cannot be imported", operators=(self.name,)
        )


Converter: TypeAlias = "Callable[[OperatorCall], Value]"
