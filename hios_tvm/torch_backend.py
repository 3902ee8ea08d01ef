"""``torch.compile(model, backend="hios")``: graphs of PyTorch, by way of its ONNX exporter.

PyTorch finds the backend by its entry point. A graph is compiled when it is first called, for the
shapes of that call; weights are constants of the artifact. What cannot be compiled runs in PyTorch,
after one warning that says why.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from onnx import ModelProto
from torch.utils import _pytree as pytree

from hios_tvm.compiler import compile
from hios_tvm.errors import DeviceError, HiosError, UsageError
from hios_tvm.files import temporary_folder
from hios_tvm.runtime import Session
from hios_tvm.schema.dtypes import numpy_dtype

__all__ = ["hios"]

MOST_VARIANTS = 8
"""Artifacts of one graph, for different shapes or different weights."""

_OF_NUMPY = 1
"""`isbuiltin` of NumPy's own types; bfloat16 is one of another package."""

Arguments: TypeAlias = Sequence[Any]
Array: TypeAlias = np.ndarray[Any, Any]
Key: TypeAlias = tuple[object, ...]


def hios(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile a graph for ``torch.compile``.

    Parameters
    ----------
    graph : torch.fx.GraphModule
    example_inputs : sequence
        Not used: the inputs of the first call are real, and have their final shapes.
    options : mapping, optional
        Of ``torch.compile``; those of `hios_tvm.compile`, such as ``{"devices": "cpu@0,cpu@1"}``.

    Returns
    -------
    function
        Takes and returns what `graph` does.
    """
    return _Graph(graph, options or {})


class _CannotCompileError(Exception):
    """A graph that only PyTorch can run; the message is the reason."""


@dataclass(frozen=True)
class _Variant:
    """An artifact of a graph, for inputs of one shape.

    `weights` are the tensors whose values it holds: while they live, no other is at their address.
    `inputs` are the places of its inputs among the arguments.
    """

    session: Session
    inputs: Mapping[str, int]
    weights: Sequence[torch.Tensor]

    def run(self, arguments: Arguments) -> list[torch.Tensor]:
        values = {name: _array(arguments[i]) for name, i in self.inputs.items()}
        return list(map(_tensor, self.session.run(values).values()))


class _Graph:
    """A graph that is compiled when it is called."""

    def __init__(self, graph: torch.fx.GraphModule, options: Mapping[str, Any]) -> None:
        self._graph = graph
        self._options = options
        self._weights = _places_of_weights(graph)
        self._variants: dict[Key, _Variant] = {}
        self._is_refused = False
        self._warned: set[str] = set()

    def __call__(self, *arguments: Any) -> Any:
        if self._is_refused:
            return self._graph(*arguments)
        if torch.is_grad_enabled() and any(map(_requires_grad, arguments)):
            self._warn(
                "gradients are enabled, and an artifact computes none: call the model under "
                "torch.inference_mode() or torch.no_grad()"
            )
            return self._graph(*arguments)
        key = tuple(map(self._key, range(len(arguments)), arguments))
        variant = self._variants.get(key) or self._add_variant(key, arguments)
        if variant is None:
            return self._graph(*arguments)
        return pytree.tree_unflatten(variant.run(arguments), self._output_spec)

    def _key(self, place: int, argument: Any) -> object:
        """Return what an artifact depends on: which weights, and the shapes of other tensors."""
        if not isinstance(argument, torch.Tensor):
            return argument
        if place in self._weights:
            return argument.data_ptr(), _version(argument), argument.shape
        return argument.shape

    def _add_variant(self, key: Key, arguments: Arguments) -> _Variant | None:
        """Compile the graph for these arguments; or say why that is not possible."""
        if len(self._variants) == MOST_VARIANTS:
            self._warn(
                f"it was compiled for {MOST_VARIANTS} combinations of shapes and weights before"
            )
            return None
        try:
            self._variants[key] = self._compile(arguments)
        except (UsageError, DeviceError):  # of the options
            raise
        except (_CannotCompileError, HiosError) as error:
            self._is_refused = True
            self._warn(str(error))
            return None
        return self._variants[key]

    def _compile(self, arguments: Arguments) -> _Variant:
        is_input = [
            isinstance(argument, torch.Tensor) and i not in self._weights
            for i, argument in enumerate(arguments)
        ]
        module = _Frozen(self._graph, arguments, is_input)
        names = [f"input_{i}" for i, chosen in enumerate(is_input) if chosen]
        model = _export(
            module, [arguments[i] for i, chosen in enumerate(is_input) if chosen], names
        )
        with temporary_folder() as folder:
            session = compile(model, folder / "graph.hios", **self._options).load()
        known = {spec.name for spec in session.inputs}
        return _Variant(
            session,
            {name: int(name.removeprefix("input_")) for name in names if name in known},
            [arguments[i] for i in self._weights],
        )

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(f"hios: a graph runs in PyTorch: {reason}", stacklevel=4)

    @property
    def _output_spec(self) -> Any:
        (output,) = self._graph.graph.find_nodes(op="output")
        return pytree.tree_structure(output.args[0])


class _Frozen(torch.nn.Module):
    """A graph whose arguments are the inputs alone; the others keep their values."""

    def __init__(
        self, graph: torch.fx.GraphModule, arguments: Arguments, is_input: Sequence[bool]
    ) -> None:
        super().__init__()
        self._graph = graph
        self._values: list[Any] = []
        for i, (argument, chosen) in enumerate(zip(arguments, is_input, strict=True)):
            if isinstance(argument, torch.Tensor) and not chosen:
                self.register_buffer(f"weight_{i}", argument.detach())
            self._values.append(None if chosen else argument)
        self._is_input = is_input

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = iter(inputs)
        return self._graph(
            *(
                next(given) if chosen else getattr(self, f"weight_{i}", value)
                for i, (chosen, value) in enumerate(zip(self._is_input, self._values, strict=True))
            )
        )


def _export(module: _Frozen, inputs: Sequence[torch.Tensor], names: Sequence[str]) -> ModelProto:
    """Return a graph as an ONNX model.

    Raises
    ------
    _CannotCompileError
        If PyTorch cannot export it, or it does more than to compute tensors on the CPU.
    """
    tensors = [*inputs, *module.buffers()]
    elsewhere = next((str(t.device) for t in tensors if t.device.type != "cpu"), None)
    if elsewhere is not None:
        raise _CannotCompileError(f"a tensor is on {elsewhere}: move all to the CPU")
    detached = tuple(tensor.detach() for tensor in inputs)
    try:
        with _quiet():
            program = torch.export.export(module, detached).run_decompositions({})
            _check_changes(program)
            exported = torch.onnx.export(program, input_names=[*names], dynamo=True, verbose=False)
    except _CannotCompileError:
        raise
    except Exception as error:  # of all of PyTorch's types
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter's own errors are reports of many lines
            cause = cause.__cause__
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise _CannotCompileError(f"PyTorch cannot export it to ONNX: {reason}") from error
    return exported.model_proto


def _check_changes(program: torch.export.ExportedProgram) -> None:
    signature = program.graph_signature
    if signature.buffers_to_mutate:
        raise _CannotCompileError(
            "it changes its parameters or buffers, as in training: call model.eval()"
        )
    if signature.user_inputs_to_mutate:
        raise _CannotCompileError("it changes its inputs in place")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter logs of packages that are not installed, and its deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _places_of_weights(graph: torch.fx.GraphModule) -> frozenset[int]:
    """Return which arguments are parameters and buffers of the model, as PyTorch marks them."""
    arguments = graph.graph.find_nodes(op="placeholder")
    marks = (node.meta.get("tensor_dict", {}) for node in arguments)
    return frozenset(i for i, mark in enumerate(marks) if mark.get("_dynamo_static_input_type"))


def _array(tensor: torch.Tensor) -> Array:
    """Return a tensor's memory as an array; PyTorch itself does not if NumPy lacks the type."""
    dtype = numpy_dtype(str(tensor.dtype).removeprefix("torch."))
    bits = tensor.detach()
    if dtype.isbuiltin != _OF_NUMPY:
        bits = bits.view(torch.uint8 if dtype.itemsize == 1 else torch.int16)
    array: Array = bits.numpy()
    return array.view(dtype)


def _tensor(array: Array) -> torch.Tensor:
    """Return an array's memory as a tensor."""
    if array.dtype.isbuiltin == _OF_NUMPY:
        return torch.from_numpy(array)
    bits = torch.from_numpy(array.view(f"i{array.dtype.itemsize}"))
    return bits.view(getattr(torch, array.dtype.name))


def _requires_grad(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and argument.requires_grad


def _version(weight: torch.Tensor) -> int | None:
    """Return how often a tensor was changed in place, where PyTorch counts it."""
    return None if weight.is_inference() else weight._version
