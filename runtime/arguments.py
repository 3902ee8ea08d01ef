"""What a caller gives to a run: one array, several in order or by name, and tensors of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from hios_tvm.errors import InputError
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import TensorSpec

Array = np.ndarray[Any, Any]


@runtime_checkable
class DLPackTensor(Protocol):
    """A tensor of another library, such as PyTorch's or TVM's, whose memory NumPy can use."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


AnyTensor: TypeAlias = Array | DLPackTensor
Tensors: TypeAlias = AnyTensor | Sequence[AnyTensor] | Mapping[str, AnyTensor]
"""A tensor for each input or output: by name, all of them in order, or the only one."""


def accept(
    given: Tensors, specs: Sequence[TensorSpec], kind: str, *, partly: bool = False
) -> dict[str, Array]:
    """Return what was given as arrays by name; tensors of other libraries are not copied.

    Parameters
    ----------
    given
        Tensors by name; or as many as `specs`, in their order; or one, where there is one spec.
    specs
        The model's inputs or outputs, in order.
    kind : {"input", "output"}
        For messages.
    partly : bool
        Whether some may be left out.

    Raises
    ------
    InputError
        If a tensor is missing, unknown, of another shape or type, or not in the host's memory; it
        lists all of them.
    """
    tensors = _by_name(given, specs, kind)
    problems, arrays = [], {}
    for spec in specs:
        if spec.name in tensors:
            try:
                arrays[spec.name] = _array_of(tensors[spec.name], spec)
            except InputError as error:
                problems.append(f"{spec.name!r} is {error}")
        elif not partly:
            problems.append(f"{spec.name!r} is missing: {spec.dtype} {list(spec.shape)}")
    known = {spec.name for spec in specs}
    problems += [f"{name!r} is unknown" for name in tensors if name not in known]
    if problems:
        raise InputError(f"{kind}s: {'; '.join(problems)}")
    return arrays


def accept_outputs(out: Tensors, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return arrays for some of the outputs by name.

    Raises
    ------
    InputError
        As `accept`, and if an array cannot be written.
    """
    arrays = accept(out, specs, "output", partly=True)
    for name, array in arrays.items():
        if not array.flags.writeable:
            raise InputError(
                f"output {name!r} cannot be written into a read-only array; of a PyTorch "
                "tensor, give tensor.numpy(), which shares its memory"
            )
    return arrays


def write_into(out: Mapping[str, Array], results: dict[str, Array]) -> None:
    """Replace results by the arrays of `out`, which get their values."""
    for name, array in out.items():
        if results[name] is not array:
            array[...] = results[name]
            results[name] = array


def shapes_of(given: Tensors, specs: Sequence[TensorSpec]) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes of what was given in the order of `specs`, or None if one is missing.

    Raises
    ------
    InputError
        If there are too many or too few, or NumPy cannot use a tensor.
    """
    tensors = _by_name(given, specs, "input")
    try:
        return tuple(_shared(tensors[spec.name]).shape for spec in specs)
    except KeyError:
        return None


def _by_name(given: Tensors, specs: Sequence[TensorSpec], kind: str) -> Mapping[str, AnyTensor]:
    if isinstance(given, Mapping):
        return given
    tensors = list(given) if isinstance(given, list | tuple) else [cast(AnyTensor, given)]
    if len(tensors) != len(specs):
        names = ", ".join(repr(spec.name) for spec in specs)
        raise InputError(
            f"{len(tensors)} {kind}{'s'[: len(tensors) != 1]} given, but the model has "
            f"{len(specs)}: {names}"
        )
    return {spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)}


def _array_of(tensor: object, spec: TensorSpec) -> Array:
    array = _shared(tensor)
    if array.shape != spec.shape or array.dtype != numpy_dtype(spec.dtype):
        raise InputError(f"{array.dtype} {list(array.shape)}, not {spec.dtype} {list(spec.shape)}")
    return array


def _shared(tensor: object) -> Array:
    if isinstance(tensor, np.ndarray):
        return tensor
    kind = type(tensor).__name__
    if not isinstance(tensor, DLPackTensor):
        raise InputError(f"a {kind}, not a NumPy array or a tensor with __dlpack__")
    try:
        return np.from_dlpack(tensor)
    except Exception as error:  # libraries differ in what they raise for GPUs, types and gradients
        raise InputError(f"a {kind} whose memory NumPy cannot use: {error}") from error
