"""hios-tvm as a backend of ONNX: `onnx.backend.base.Backend`, as ONNX's own test suite needs it.

    from hios_tvm import onnx_backend
    outputs = onnx_backend.run_model(model, [x])

Nothing is measured: the operators take turns on the devices, so that all devices work and values
cross between them at every step. For speed, compile with `hios_tvm.compile_model`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto, helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from hios_tvm.compiler import CompileOptions, compile_network, lower_network
from hios_tvm.costs.table import CostTable, Measurement
from hios_tvm.devices import Platform
from hios_tvm.errors import InputError, ModelError, UsageError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.graph import OperatorGraph
from hios_tvm.measure.platform import cpu_platform
from hios_tvm.runtime.devices.cpu import allowed_cores, cpu_device_name
from hios_tvm.runtime.session import Session, load
from hios_tvm.schedule import DeviceSchedule, Schedule, Stage

__all__ = [
    "HiosBackend",
    "HiosBackendRep",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]

MAX_DEVICES = 2
"""Devices of one core each that are used unless others are named."""


class HiosBackendRep(BackendRep):
    """A compiled model; `session` is what runs it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model once.

        Parameters
        ----------
        inputs
            A list of arrays in the model's order, a mapping by name, or one array.

        Returns
        -------
        tuple of ndarray
            In the model's order; also by name, as ``outputs["y"]``.

        Raises
        ------
        InputError, ExecutionError
            As `Session.run`.
        """
        if kwargs:
            raise UsageError(f"run has no option {min(kwargs)!r}")
        names = [spec.name for spec in self.session.inputs]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(arrays) != len(names):
                raise InputError(f"inputs: {len(arrays)} are given, the model has {len(names)}")
            feeds = dict(zip(names, arrays, strict=True))
        outputs = self.session.run({name: np.asarray(array) for name, array in feeds.items()})
        result: tuple[Any, ...] = namedtupledict("Outputs", list(outputs))(*outputs.values())
        return result


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
        **kwargs: Any,
    ) -> HiosBackendRep:
        """Compile `model`.

        Parameters
        ----------
        model : onnx.ModelProto
            With static shapes.
        device : str
            ``CPU``.
        devices : sequence of str, optional
            Devices to compile for, such as ``["cpu@0-3", "cpu@4-7"]``; by default the first two
            cores that this process may use.
        cache_dir : Path, optional
            Folder that keeps compiled kernels.

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
        network = lower_network(from_onnx(model), "host", name=model.graph.name or "model")
        platform = cpu_platform(names, network.target, measured=Platform.uniform(len(names)))
        options = CompileOptions(
            devices=names,
            schedule=_taking_turns(network.graph, names),
            costs=_equal_costs(network.graph, platform),
            cache_dir=cache_dir,
        )
        with tempfile.TemporaryDirectory(prefix="hios-") as folder:
            artifact = Path(folder, "model.hios")
            compile_network(network, artifact, options)
            return HiosBackendRep(load(artifact))  # its weights stay mapped

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


def _value_info(name: str, array: np.ndarray[Any, Any]) -> ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element, array.shape)


def _taking_turns(graph: OperatorGraph, devices: Sequence[str]) -> Schedule:
    """Return the schedule that gives each operator to the next device."""
    stages: dict[str, list[Stage]] = {name: [] for name in devices}
    for i, operator in enumerate(graph.operators):
        stages[devices[i % len(devices)]].append(Stage(((operator.name,),)))
    return Schedule(
        "taking-turns", tuple(DeviceSchedule(name, tuple(own)) for name, own in stages.items())
    )


def _equal_costs(graph: OperatorGraph, platform: Platform) -> CostTable:
    times = {operator.name: Measurement(1.0) for operator in graph.operators}
    return CostTable({device.model: times for device in platform.devices}, platform=platform)
