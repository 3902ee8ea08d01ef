"""Inputs and outputs: between the caller's arrays and the buffers that programs read and write."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hios_tvm.errors import InputError
from hios_tvm.runtime.arguments import Tensors, accept, accept_outputs
from hios_tvm.runtime.memory import AlignedEmpty, TensorTable, address_of, aligned_empty
from hios_tvm.runtime.weights import Weights
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.manifest import ALIGNMENT, Manifest, TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Input:
    """An input; `pinned` is the memory that GPUs copy it from, if they do.

    `address` is where kernels find it.
    """

    spec: TensorSpec
    dtype: np.dtype[Any]
    pinned: Array | None
    address: ctypes.c_uint64


@dataclass(frozen=True)
class _Written:
    """An output that programs write; `pinned` is the memory that a GPU copies it to, if any.

    `new` makes an array for it, `address` is where kernels write it.
    """

    spec: TensorSpec
    pinned: Array | None
    new: AlignedEmpty
    address: ctypes.c_uint64


@dataclass(frozen=True)
class _SameAsOutput:
    """An output in the buffer of an earlier one, `other`."""

    spec: TensorSpec
    other: str


@dataclass(frozen=True)
class _SameAsInput:
    """An output that is the input `other`."""

    spec: TensorSpec
    other: str


@dataclass(frozen=True)
class _Weight:
    """An output that is a weight."""

    spec: TensorSpec
    array: Array


_Route = _Written | _SameAsOutput | _SameAsInput | _Weight


class Interface:
    """Prepares inputs and outputs of runs; what does not change is decided when it is made.

    Parameters
    ----------
    manifest : Manifest
    tensors : TensorTable
        Receives the addresses of inputs and outputs before each run.
    weights : Weights, optional
        For outputs of the model that are weights.
    pinned : buffer -> array
        Memory through which GPUs read inputs and write outputs.
    """

    def __init__(
        self,
        manifest: Manifest,
        tensors: TensorTable,
        weights: Weights | None,
        pinned: Mapping[str, Array],
    ) -> None:
        self._inputs = tuple(
            _Input(
                spec,
                numpy_dtype(spec.dtype),
                pinned.get(spec.buffer),
                tensors.address(spec.buffer),
            )
            for spec in manifest.inputs
        )
        self._expected = tuple(
            (item.spec.name, item.spec.shape, item.dtype) for item in self._inputs
        )
        self._aligned: dict[str, Array] = {}  # copies of inputs that are not, by name
        self._outputs = tuple(_routes(manifest, weights, pinned, tensors))
        self._written = tuple(route for route in self._outputs if isinstance(route, _Written))
        self._fetched = tuple(route for route in self._written if route.pinned is not None)
        self._checks = manifest.checks
        self._extremes: dict[str, Array] = {}
        for buffer in dict.fromkeys(check.buffer for check in manifest.checks):
            array = pinned.get(buffer)
            if array is None:
                array = aligned_empty(manifest.buffer[buffer].shape, "int64")
                tensors.place(buffer, address_of(array))
            self._extremes[buffer] = array

    def accept_inputs(self, inputs: Tensors) -> Mapping[str, Array]:
        """Return an array for each input, as `run` takes them.

        Raises
        ------
        InputError
            If inputs are missing, unknown or wrong; it lists all of them.
        """
        if type(inputs) is dict and len(inputs) == len(self._expected):  # the usual case, quickly
            for name, shape, dtype in self._expected:
                array = inputs.get(name)
                if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                    break
            else:
                return inputs
        return accept(inputs, [item.spec for item in self._inputs], "input")

    def accept_outputs(self, out: Tensors) -> dict[str, Array]:
        """Return the given arrays by name; they may be for some of the outputs only.

        Raises
        ------
        InputError
            If one is unknown, wrong, or cannot be written.
        """
        return accept_outputs(out, [route.spec for route in self._outputs])

    def place_inputs(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Let kernels read `inputs`, in place where they are aligned; return what must be kept."""
        return [self._place_input(item, inputs[item.spec.name]) for item in self._inputs]

    def new_outputs(self) -> dict[str, Array]:
        """Return a new array for each output that programs write, and let them write there."""
        arrays = {}
        for item in self._written:
            arrays[item.spec.name], address = item.new()
            if item.pinned is None:
                item.address.value = address
        return arrays

    def place_outputs(self, out: Mapping[str, Array], inputs: Iterable[Array]) -> dict[str, Array]:
        """Return an array for each output that programs write, and let them write there.

        It is the one of `out` where kernels can write there while they read `inputs`, or else new.
        """
        taken = list(inputs)
        arrays = {}
        for item in self._written:
            array = out.get(item.spec.name)
            if array is not None and _is_usable(array) and not _overlaps(array, taken):
                address = address_of(array)
            else:
                array, address = item.new()
            taken.append(array)
            arrays[item.spec.name] = array
            if item.pinned is None:
                item.address.value = address
        return arrays

    def results(self, outputs: dict[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs of the model in its order; no two of them share memory.

        Parameters
        ----------
        outputs
            The arrays of `new_outputs` or `place_outputs`, after the run.
        inputs
            The arrays that the run has read.

        Raises
        ------
        InputError
            If an operator of the run got values that it cannot use.
        """
        if self._checks:
            self._check_values()
        for item in self._fetched:
            outputs[item.spec.name][...] = item.pinned
        return outputs if len(self._written) == len(self._outputs) else self._route(outputs, inputs)

    def _check_values(self) -> None:
        problems = []
        for check in self._checks:
            extremes = self._extremes[check.buffer]
            low, high = ~int(extremes[0, check.column]), int(extremes[1, check.column])
            violation = check.violation(low, high)
            if violation is not None:
                problems.append(violation)
        if problems:
            raise InputError("; ".join(dict.fromkeys(problems)))

    def _route(self, outputs: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        results: dict[str, Array] = {}
        for route in self._outputs:
            match route:
                case _Written():
                    results[route.spec.name] = outputs[route.spec.name]
                case _SameAsOutput(spec, other):
                    results[spec.name] = results[other].copy()
                case _SameAsInput(spec, other):
                    results[spec.name] = inputs[other].copy()
                case _Weight(spec, array):
                    results[spec.name] = array.copy()
        return results

    def _place_input(self, item: _Input, array: Array) -> Array:
        spec = item.spec
        if item.pinned is not None:
            item.pinned[...] = array
            return item.pinned
        address = address_of(array)
        if address % ALIGNMENT or not array.flags.c_contiguous:
            if spec.name not in self._aligned:
                self._aligned[spec.name] = aligned_empty(spec.shape, spec.dtype)
            self._aligned[spec.name][...] = array
            array = self._aligned[spec.name]
            address = address_of(array)
        item.address.value = address
        return array


def _is_usable(array: Array) -> bool:
    """Whether kernels can use the memory of `array` as it is."""
    return array.flags.c_contiguous and address_of(array) % ALIGNMENT == 0


def _overlaps(array: Array, others: Iterable[Array]) -> bool:
    return any(np.may_share_memory(array, other) for other in others)


def _routes(
    manifest: Manifest,
    weights: Weights | None,
    pinned: Mapping[str, Array],
    tensors: TensorTable,
) -> Iterator[_Route]:
    """Yield where each output comes from."""
    input_of = {spec.buffer: spec.name for spec in manifest.inputs}
    first: dict[str, str] = {}  # the first output of each buffer
    for spec in manifest.outputs:
        buffer = manifest.buffer[spec.buffer]
        if first.setdefault(buffer.name, spec.name) != spec.name:
            yield _SameAsOutput(spec, first[buffer.name])
        elif buffer.space == "output":
            new, address = AlignedEmpty(spec.shape, spec.dtype), tensors.address(buffer.name)
            yield _Written(spec, pinned.get(buffer.name), new, address)
        elif buffer.space == "input":
            yield _SameAsInput(spec, input_of[buffer.name])
        else:
            assert weights is not None
            array = weights.array(buffer.name).view(numpy_dtype(spec.dtype))
            yield _Weight(spec, array.reshape(spec.shape))
