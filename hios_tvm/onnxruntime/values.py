"""Tensors that are bound to a session before it runs, under ONNX Runtime's names."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from onnx import helper

from hios_tvm.errors import InputError, UsageError
from hios_tvm.onnxruntime.signature import type_name
from hios_tvm.runtime import aligned_empty
from hios_tvm.runtime.memory import address_of

if TYPE_CHECKING:
    from hios_tvm.onnxruntime.session import InferenceSession

Array = np.ndarray[Any, Any]
ElementType: TypeAlias = Any
"""What NumPy takes for a type, or ONNX's number of one."""


class OrtValue:
    """A tensor in the memory of the host; make one with `ortvalue_from_numpy`."""

    def __init__(self, array: Array) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(array: Array, device_type: str = "cpu", device_id: int = 0) -> OrtValue:
        """Return a value that shares the memory of `array`."""
        _require_cpu(device_type)
        return OrtValue(array)

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int],
        element_type: ElementType,
        device_type: str = "cpu",
        device_id: int = 0,
    ) -> OrtValue:
        """Return a value with memory of its own, which kernels use without a copy."""
        _require_cpu(device_type)
        return OrtValue(aligned_empty(shape, _dtype(element_type).name))

    def numpy(self) -> Array:
        """Return the value as an array, which shares its memory."""
        return self._array

    def shape(self) -> list[int]:
        """Return the dimensions."""
        return list(self._array.shape)

    def data_type(self) -> str:
        """Return the type, such as ``tensor(float)``."""
        return type_name(self._array.dtype)

    def element_type(self) -> int:
        """Return ONNX's number of the type."""
        return int(helper.np_dtype_to_tensor_dtype(self._array.dtype))

    def device_name(self) -> str:
        """Return where the value is."""
        return "cpu"

    def data_ptr(self) -> int:
        """Return the address of the first element."""
        return address_of(self._array)

    def tensor_size_in_bytes(self) -> int:
        """Return the bytes of the value."""
        return self._array.nbytes

    def has_value(self) -> bool:
        """Whether there is a value."""
        return True

    def is_tensor(self) -> bool:
        """Whether the value is a tensor."""
        return True

    def update_inplace(self, array: Array) -> None:
        """Copy `array` into the value."""
        if array.shape != self._array.shape or array.dtype != self._array.dtype:
            raise InputError(
                f"cannot copy {array.dtype} {list(array.shape)} into a value of "
                f"{self._array.dtype} {list(self._array.shape)}"
            )
        self._array[...] = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __repr__(self) -> str:
        return f"<OrtValue {self.data_type()} {self.shape()}>"


class IOBinding:
    """Inputs and outputs of the next runs of a session; make one with `session.io_binding()`."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, Array] = {}
        self._outputs: dict[str, Array | None] = {}
        self._results: list[Array] = []

    def bind_cpu_input(self, name: str, array: Array) -> None:
        """Bind an array, which is read when the session runs."""
        self._inputs[name] = array

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: ElementType,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Bind contiguous memory of the host, which has to live until it is bound no more."""
        _require_cpu(device_type)
        self._inputs[name] = _array_at(buffer_ptr, shape, element_type)

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        """Bind a value."""
        self._inputs[name] = value.numpy()

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: ElementType = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Ask for an output: in new memory, or in contiguous memory at `buffer_ptr`."""
        _require_cpu(device_type)
        if buffer_ptr is None:
            self._outputs[name] = None
        elif shape is None or element_type is None:
            raise UsageError(f"output {name!r}: memory at buffer_ptr needs shape and element_type")
        else:
            self._outputs[name] = _array_at(buffer_ptr, shape, element_type)

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        """Ask for an output in the memory of a value."""
        self._outputs[name] = value.numpy()

    def get_outputs(self) -> list[OrtValue]:
        """Return the outputs of the latest run, in the order in which they were bound."""
        return [OrtValue(array) for array in self._results]

    def copy_outputs_to_cpu(self) -> list[Array]:
        """Return the outputs of the latest run as arrays."""
        return list(self._results)

    def synchronize_inputs(self) -> None:
        """Do nothing: inputs are in the memory of the host."""

    def synchronize_outputs(self) -> None:
        """Do nothing: outputs are there when a run returns."""

    def clear_binding_inputs(self) -> None:
        """Forget all inputs."""
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forget all outputs."""
        self._outputs.clear()
        self._results = []

    def run(self) -> None:
        """Run the session once."""
        given = {name: array for name, array in self._outputs.items() if array is not None}
        names = list(self._outputs)
        self._results = self._session.run_into(names, self._inputs, given)


def _require_cpu(device_type: str) -> None:
    if device_type.lower() != "cpu":
        raise UsageError(f"memory of device {device_type!r} cannot be used: bind that of 'cpu'")


def _dtype(element_type: ElementType) -> np.dtype[Any]:
    if isinstance(element_type, int):
        element_type = helper.tensor_dtype_to_np_dtype(element_type)
    found: np.dtype[Any] = np.dtype(element_type)
    return found


def _array_at(address: int, shape: Sequence[int], element_type: ElementType) -> Array:
    dtype = _dtype(element_type)
    memory = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.ctypeslib.as_array(memory).view(dtype).reshape(tuple(shape))
