"""Artifacts' manifests of zoo networks by their measured costs: to draw, without compiling."""

from __future__ import annotations

import json
from types import SimpleNamespace

from hios_tvm.artifact.predict import predict
from hios_tvm.experiments.comparison import schedule_instance
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Program
from hios_tvm.zoo.costs import cost_file


def manifest_of(network: str, scheduler: str, cores: int = 2) -> Manifest:
    """Return what an artifact would hold, as far as pictures show it."""
    instance = read_instance(cost_file(network, cores))
    graph = instance.graph
    schedule = schedule_instance(instance, scheduler)
    programs = []
    for device in schedule:
        operators = [graph.operator[name] for name in device.operators]
        calls = [Call(op.name, op.kernel, (*op.inputs, *op.outputs)) for op in operators]
        programs.append(Program(device.device, 0, tuple(calls)))
    constants = set(graph.constants)
    return Manifest(
        tvm_version="0",
        model=network,
        inputs=tuple(
            TensorSpec(name, name, graph.tensor[name].shape, graph.tensor[name].dtype)
            for name in graph.inputs
        ),
        outputs=(),
        devices=tuple(
            DeviceSpec(device.device, "cpu", "k.so", "llvm", (), 0) for device in schedule
        ),
        programs=tuple(programs),
        buffers=tuple(
            Buffer(t.name, None, "param" if t.name in constants else "output", t.shape, t.dtype)
            for t in graph.tensors
        ),
        graph=graph,
        prediction=predict(
            SimpleNamespace(graph=graph),  # type: ignore[arg-type]  # of a network, the graph only
            instance.costs,
            instance.platform,
            schedule,
        ),
        schedule=json.loads(schedule.to_json()),
    )
