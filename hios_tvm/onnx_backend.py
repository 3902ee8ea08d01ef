"""hios-tvm as a backend of ONNX: `onnx.backend.base.Backend`, as ONNX's own test suite needs it.

    from hios_tvm import onnx_backend
    outputs = onnx_backend.run_model(model, [x])

Nothing is measured: the operators take turns on the devices, so that all devices work and values
cross between them at every step. For speed, compile with `hios_tvm.compile_model`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from hios_tvm.artifact.build import build
from hios_tvm.artifact.write import temporary_artifact
from hios_tvm.backends.cache import kernel_dir
from hios_tvm.backends.network import lower_network
from hios_tvm.errors import (
    CompileError,
    DynamicShapeError,
    HiosError,
    InputError,
    ModelError,
    UsageError,
)
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.frontends.onnx.inputs import model_inputs
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.schema.device_names import cpu_device_name
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

Array = np.ndarray[Any, Any]

MAX_DEVICES = 2
"""Devices of one core each that are used unless others are named."""


@dataclass(frozen=True)
class _Options:
    devices: tuple[str, ...]
    cache_dir: Path | None


class HiosBackendRep(BackendRep):
    """A compiled model; `session` is what runs it.

    Where shapes depend on the values of inputs (axes, sizes, the condition of an If), the model is
    compiled for the values of a run, and `session` is None until the first one.
    """

    def __init__(
        self, model: onnx.ModelProto, options: _Options, session: Session | None = None
    ) -> None:
        self.session = session
        self._model = model
        self._options = options

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model once.

        Parameters
        ----------
        inputs
            A list of arrays in the model's order, a mapping by name, or one array. A sequence
            is a list of arrays, an optional without a value is None.

        Returns
        -------
        tuple of ndarray
            In the model's order; also by name, as ``outputs["y"]``. A sequence is a list.

        Raises
        ------
        InputError, ExecutionError
            As `Session.run`.
        ModelError, CompileError
            As `HiosBackend.prepare`, where the model has to be compiled for these inputs.
        """
        if kwargs:
            raise UsageError(f"run has no option {min(kwargs)!r}")
        names = [value.name for value in model_inputs(self._model.graph)]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(arrays) != len(names):
                raise InputError(f"inputs: {len(arrays)} are given, the model has {len(names)}")
            feeds = dict(zip(names, arrays, strict=True))
        if self.session is None:
            outputs = self._run_specialized(feeds)
        else:
            for name, value in feeds.items():
                if value is None or isinstance(value, Sequence):
                    raise InputError(f"inputs: {name!r} is no tensor; the model has a tensor there")
            outputs = self.session.run(_tensors(feeds))
        values = {value.name: _output(outputs, value.name) for value in self._model.graph.output}
        result: tuple[Any, ...] = namedtupledict("Outputs", list(values))(*values.values())
        return result

    def _run_specialized(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Compile for the shapes, the small inputs or, if they do not do, all inputs of a run."""
        given = _with_tensors(self._model, values)
        feeds = _tensors(values)
        small = [name for name, array in feeds.items() if _is_setting(array)]
        error: HiosError | None = None
        for fixed in ([], small, list(feeds)):
            left = {name: array for name, array in feeds.items() if name not in fixed}
            try:
                model = _with_constants(given, {name: feeds[name] for name in fixed})
                shapes = {name: array.shape for name, array in left.items()}
                session = _compile(model, self._options, shapes)
            except (ModelError, CompileError) as reason:
                error = reason
                continue
            with session:
                return session.run(left)
        assert error is not None
        raise error


class HiosBackend(Backend):
    """Compiles for several CPU devices and runs in this process."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Return whether `model` can be imported."""
        try:
            from_onnx(model)
        except ModelError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(
        cls,
        model: onnx.ModelProto,
        device: str = "CPU",
        *,
        devices: Sequence[str] | None = None,
        cache_dir: Path | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        **kwargs: Any,
    ) -> HiosBackendRep:
        """Compile `model`.

        Parameters
        ----------
        model : onnx.ModelProto
            Where its shapes depend on its inputs, it is compiled when it runs.
        device : str
            ``CPU``.
        devices : sequence of str, optional
            Devices to compile for, such as ``["cpu@0-3", "cpu@4-7"]``; by default the first two
            cores that this process may use.
        cache_dir : Path, optional
            Folder that keeps compiled kernels.
        shapes : mapping of input name to shape, optional
            Compile now, for these shapes and any values of the inputs.

        Raises
        ------
        ModelError, CompileError
            If the model is not valid, or cannot be compiled.
        UsageError
            For another `device`, or an unknown option.
        """
        if not cls.supports_device(device):
            raise UsageError(f"device {device!r} is not supported: use CPU")
        if kwargs:
            raise UsageError(f"prepare has no option {min(kwargs)!r}")
        cores = sorted(allowed_cores())[:MAX_DEVICES]
        names = tuple(devices or (cpu_device_name([core]) for core in cores))
        options = _Options(names, cache_dir)
        try:
            return HiosBackendRep(model, options, _compile(model, options, shapes))
        except ModelError as error:
            if shapes is not None:
                raise
            if isinstance(error, DynamicShapeError) or _has_settings(model):
                return HiosBackendRep(model, options)
            raise

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compile and run one node on `inputs`; ``opset_version`` names another opset.

        Raises
        ------
        ModelError, CompileError
            If the node is not valid, or cannot be compiled.
        """
        opset = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        arrays = [np.asarray(array) for array in inputs]
        names = list(dict.fromkeys(name for name in node.input if name))
        if len(names) != len(arrays):
            raise InputError(f"inputs: {len(arrays)} are given, the node has {len(names)}")
        graph = helper.make_graph(
            [node],
            node.op_type,
            [_value_info(name, array) for name, array in zip(names, arrays, strict=True)],
            [ValueInfoProto(name=name) for name in node.output if name],
        )
        imports = [helper.make_opsetid(node.domain, opset)]
        if node.domain:
            imports.append(helper.make_opsetid("", onnx.defs.onnx_opset_version()))
        model = helper.make_model(graph, opset_imports=imports)
        return cls.prepare(model, device, **kwargs).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether `device` is a CPU; CPU:0 is the same as CPU."""
        return device in ("CPU", "CPU:0")


is_compatible = HiosBackend.is_compatible
prepare = HiosBackend.prepare
run_model = HiosBackend.run_model
run_node = HiosBackend.run_node
supports_device = HiosBackend.supports_device


def _value_info(name: str, array: Array) -> ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element, array.shape)


def _compile(
    model: onnx.ModelProto, options: _Options, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Session:
    module = from_onnx(model, shapes=shapes)
    network = lower_network(module, "host", name=model.graph.name or "model")
    schedule = _taking_turns(network.graph, options.devices)
    built = build(network, schedule, kernel_dir=kernel_dir(options.cache_dir))
    with temporary_artifact(built, Path(tempfile.gettempdir(), "model.hios")) as artifact:
        return load(artifact)


def _is_setting(array: Array) -> bool:
    """Return whether an input looks like axes, sizes, repeats, or a condition."""
    return array.ndim == 0 or (array.ndim == 1 and array.dtype.kind in "iub")


def _has_settings(model: onnx.ModelProto) -> bool:
    """Return whether the values of a run may make a model static: settings, and sequences."""
    if not all(value.type.HasField("tensor_type") for value in model_inputs(model.graph)):
        return True
    kinds = [value.type.tensor_type for value in model_inputs(model.graph)]
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return any(
        kind.HasField("shape") and len(kind.shape.dim) <= (0 if kind.elem_type in floats else 1)
        for kind in kinds
    )


def _tensors(values: Mapping[str, Any]) -> dict[str, Array]:
    """All tensors that are given, those of a sequence by names of their own."""
    tensors: dict[str, Array] = {}
    for name, value in values.items():
        if isinstance(value, Sequence):
            tensors |= {f"{name}/{i}": np.asarray(part) for i, part in enumerate(value)}
        elif value is not None:
            tensors[name] = np.asarray(value)
    return tensors


def _with_tensors(model: onnx.ModelProto, values: Mapping[str, Any]) -> onnx.ModelProto:
    """Return `model` with tensors as its only inputs, of which nodes make sequences again."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for value in [value for value in copy.graph.input if not value.type.HasField("tensor_type")]:
        given = values[value.name]
        if value.type.HasField("optional_type") and isinstance(given, np.ndarray):
            value.CopyFrom(_value_info(value.name, given))
            continue
        copy.graph.input.remove(value)
        parts = _tensors({value.name: given})
        copy.graph.input.extend(_value_info(name, array) for name, array in parts.items())
        if given is None:
            node = helper.make_node("Optional", [], [value.name], type=value.type)
        else:
            node = helper.make_node("SequenceConstruct", list(parts), [value.name])
        nodes.append(node)
    nodes += copy.graph.node
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _output(outputs: Mapping[str, Array], name: str) -> Array | list[Array]:
    """Return a tensor, or the tensors of a sequence."""
    if name in outputs:
        return outputs[name]
    return [outputs[part] for i in range(len(outputs)) if (part := f"{name}/{i}") in outputs]


def _with_constants(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """Return `model` with inputs replaced by constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in [value for value in copy.graph.input if value.name in values]:
        copy.graph.input.remove(value)
    copy.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in values.items()
    )
    return copy


def _taking_turns(graph: OperatorGraph, devices: Sequence[str]) -> Schedule:
    """Return the schedule that gives each operator to the next device."""
    stages: dict[str, list[Stage]] = {name: [] for name in devices}
    for i, operator in enumerate(graph.operators):
        stages[devices[i % len(devices)]].append(Stage(((operator.name,),)))
    return Schedule(
        "taking-turns", tuple(DeviceSchedule(name, tuple(own)) for name, own in stages.items())
    )
