"""Tensors of Relax expressions, and the operations on them that all frontends need."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.ir import GenericConst

from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.schema.dtypes import element_type, numpy_dtype
from hios_tvm.schema.value_checks import OPERATOR, VALID_VALUES, ValidValues

MAX_DIMENSIONS = 32


def constant_of(array: np.ndarray) -> GenericConst:
    """A constant tensor; unlike `relax.const`, of the array's own element type."""
    check_memory(array.nbytes, "a constant")
    return relax.const(tvm.runtime.tensor(np.asarray(array, order="C")))


def constant(value: Any, dtype: str) -> GenericConst:
    """A constant tensor of an element type by its name."""
    with np.errstate(over="ignore", invalid="ignore"):  # as the compiled cast does
        return constant_of(np.asarray(value).astype(numpy_dtype(dtype)))


def shape_of(tensor: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor."""
    return tuple(int(dimension) for dimension in tensor.ty.shape)


def dtype_of(tensor: relax.Expr) -> str:
    """The element type's name."""
    return str(tensor.ty.dtype)


def check_size(shape: Sequence[int], dtype: str, what: str) -> None:
    """Raise `MemoryLimitError` if a tensor does not fit into the memory that is free."""
    check_memory(math.prod(shape) * element_type(dtype).nbytes, what)


def array_of(value: object) -> np.ndarray | None:
    """A copy of the elements of a tensor that is constant, else None."""
    if isinstance(value, GenericConst):
        array: np.ndarray = value.value.numpy()
        return array
    return None


@dataclass(frozen=True, kw_only=True)
class TensorBuilder:
    """Binds expressions in a function under construction.

    `name` is that of the operator, `operator` says which one of the model it is, for messages.
    """

    name: str
    operator: str
    builder: relax.BlockBuilder

    def emit(self, expression: relax.Expr) -> relax.Expr:
        """Bind an expression, so that its shape is known."""
        if isinstance(expression, (relax.Var, GenericConst)):
            return expression
        return self._checked_size(self.builder.emit(expression))

    def compute(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> relax.Expr:
        """Bind a tensor expression, for what Relax has no operator of its own for."""
        hint = self.name.replace(".", "_")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TVM warns of tags left over when it raises an error
            result = self.builder.emit_te(function, *arguments, primfunc_name_hint=hint, **options)
        return self._checked_size(result)

    def _checked_size(self, tensor: relax.Var) -> relax.Var:
        """Return a tensor, or a tuple of them, whose shape is known and whose elements are not."""
        for ty in tensor.ty.fields if isinstance(tensor.ty, tvm.ir.TupleType) else [tensor.ty]:
            if isinstance(getattr(ty, "shape", None), relax.ShapeExpr) and all(
                isinstance(size, tirx.IntImm) for size in ty.shape
            ):
                shape = [int(size) for size in ty.shape]
                if min(shape, default=0) < 0:  # TVM takes negative sizes as they are
                    raise self.error(f"a tensor cannot have the shape {shape}")
                check_size(shape, str(ty.dtype), self.operator)
        return tensor

    def elements(
        self,
        shape: Sequence[int],
        element: Callable[..., tirx.Expr],
        *tensors: relax.Expr,
        **options: Any,
    ) -> relax.Expr:
        """Bind a tensor of `shape`; ``element(position, *tensors)`` computes its elements."""
        return self.compute(
            lambda *sources: te.compute(shape, lambda *at: element(at, *sources), name="elements"),
            *tensors,
            **options,
        )

    def valid_values(self, *arguments: ValidValues) -> dict[str, Any]:
        """Return the attributes of a kernel that say what its arguments may hold."""
        values = [valid.to_attribute() for valid in arguments]
        return {VALID_VALUES: values, OPERATOR: self.operator}

    def checked(self, tensor: relax.Expr, valid: ValidValues) -> relax.Expr:
        """Return `tensor` with the nearest valid values; a run with others ends with an error."""
        low, high = (tirx.const(bound, dtype_of(tensor)) for bound in (-valid.below, valid.high))

        def nearest(position: tuple[tirx.Var, ...], tensor: te.Tensor) -> tirx.Expr:
            return tirx.max(tirx.min(tensor(*position), high), low)

        attributes = self.valid_values(valid)
        return self.elements(shape_of(tensor), nearest, tensor, primfunc_attrs=attributes)

    def cast(self, tensor: relax.Expr, dtype: str) -> relax.Expr:
        """Convert elements; of a constant right away."""
        if dtype_of(tensor) == dtype:
            return tensor
        array = array_of(tensor)
        if array is not None:
            return constant(array, dtype)
        return self.emit(relax.op.astype(tensor, dtype))

    def reshape(self, tensor: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """Give a tensor another shape of as many elements; a constant right away."""
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

    def slice(self, tensor: relax.Expr, parts: Mapping[int, range]) -> relax.Expr:
        """Take some indices along each axis of `parts`, which must lie inside of the tensor."""
        shape = shape_of(tensor)
        parts = {axis: part for axis, part in parts.items() if part != range(shape[axis])}
        result = [len(parts[axis]) if axis in parts else size for axis, size in enumerate(shape)]
        if 0 in result:
            return self.empty(result, dtype_of(tensor))
        if not parts:
            return tensor
        array = array_of(tensor)
        if array is not None:
            indices = (parts.get(axis, range(size)) for axis, size in enumerate(shape))
            return constant_of(array[np.ix_(*indices)])
        # Relax counts a bound of -1 from the end: what stops before the first element stops here.
        ends = [p.stop if p.stop >= 0 else -shape[axis] - 1 for axis, p in parts.items()]
        starts, steps = [p.start for p in parts.values()], [p.step for p in parts.values()]
        return self.emit(relax.op.strided_slice(tensor, list(parts), starts, ends, steps))

    def concatenate(self, tensors: Sequence[relax.Expr], axis: int) -> relax.Expr:
        """Join tensors along an axis, of which some may be empty."""
        full = [tensor for tensor in tensors if shape_of(tensor)[axis] > 0]
        if not full:
            return tensors[0]
        return full[0] if len(full) == 1 else self.emit(relax.op.concat(full, axis))

    def empty(self, shape: Sequence[int], dtype: str) -> relax.Expr:
        """A tensor without elements."""
        return self.reshape(constant([], dtype), shape)

    def along(self, vector: relax.Expr, axis: int, rank: int) -> relax.Expr:
        """Shape a vector so that it broadcasts along one axis of a tensor; a scalar stays."""
        size = int(np.prod(shape_of(vector), dtype=np.int64))
        if size == 1:
            return self.reshape(vector, [])
        return self.reshape(vector, [size if i == axis % rank else 1 for i in range(rank)])

    def error(self, message: str) -> Exception:
        """What to raise where the operator's operands break its rules."""
        return ValueError(message)
