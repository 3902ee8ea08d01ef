"""One call of a Relay operator, as the functions that convert operators see it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from hios_tvm.errors import RelayError, UnsupportedOperatorError
from hios_tvm.frontends.relay.attributes import Attributes
from hios_tvm.frontends.relay.syntax import Position
from hios_tvm.frontends.relay.values import (
    Value,
    array_of,
    constant_of,
    describe,
    dtype_of,
    shape_of,
)

__all__ = ["MAX_DIMENSIONS", "Converter", "OperatorCall", "constant"]

MAX_DIMENSIONS = 32


@dataclass(frozen=True, kw_only=True)
class OperatorCall:
    """The operator's name, its arguments and attributes, and the builder that takes bindings."""

    name: str
    arguments: tuple[Value, ...]
    attributes: Attributes
    builder: relax.BlockBuilder
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

    # --- Results ---

    def emit(self, expression: relax.Expr) -> relax.Expr:
        """Bind an expression, so that its shape is known."""
        if isinstance(expression, (relax.Var, GenericConst)):
            return expression
        return self.builder.emit(expression)

    def compute(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> relax.Expr:
        """Bind a tensor expression, for what Relax has no operator of its own for."""
        hint = self.name.replace(".", "_")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TVM warns of tags left over when it raises an error
            return self.builder.emit_te(function, *arguments, primfunc_name_hint=hint, **options)

    def cast(self, tensor: relax.Expr, dtype: str) -> relax.Expr:
        if dtype_of(tensor) == dtype:
            return tensor
        array = array_of(tensor)
        if array is not None:
            return constant(array, dtype)
        return self.emit(relax.op.astype(tensor, dtype))

    def reshape(self, tensor: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        if shape_of(tensor) == tuple(shape):
            return tensor
        if len(shape) > MAX_DIMENSIONS:
            raise self.error(f"a tensor cannot have {len(shape)} dimensions")
        array = array_of(tensor)
        if array is not None and array.size == np.prod(shape, dtype=np.int64):
            return constant_of(array.reshape(shape))
        return self.emit(relax.op.reshape(tensor, list(shape)))

    def permute(self, tensor: relax.Expr, axes: Sequence[int]) -> relax.Expr:
        """Permute dimensions; of a constant right away, so that weights are permuted only once."""
        if list(axes) == list(range(len(axes))):
            return tensor
        array = array_of(tensor)
        if array is not None:
            return constant_of(array.transpose(axes))
        return self.emit(relax.op.permute_dims(tensor, list(axes)))

    def along(self, vector: relax.Expr, axis: int, rank: int) -> relax.Expr:
        """Shape a vector so that it broadcasts along one axis of a tensor; a scalar stays."""
        size = int(np.prod(shape_of(vector), dtype=np.int64))
        if size == 1:
            return self.reshape(vector, [])
        return self.reshape(vector, [size if i == axis % rank else 1 for i in range(rank)])

    # --- Errors ---

    def error(self, message: str) -> RelayError:
        return self.position.error(f"{self.name}: {message}")

    def unsupported(self, message: str) -> UnsupportedOperatorError:
        return UnsupportedOperatorError(
            f"{self.position}: {self.name} {message} cannot be imported", operators=(self.name,)
        )


Converter: TypeAlias = "Callable[[OperatorCall], Value]"


def constant(value: Any, dtype: str) -> GenericConst:
    """A constant tensor of an element type by its name."""
    element = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    with np.errstate(over="ignore", invalid="ignore"):  # as the compiled cast does
        return constant_of(np.asarray(value).astype(element))
