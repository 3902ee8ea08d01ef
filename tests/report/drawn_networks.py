"""Artifacts' manifests of zoo networks by their measured costs: to draw, without compiling."""

from __future__ import annotations

import json
from dataclasses import replace

from hios_tvm.artifact.predict import predict
from hios_tvm.experiments.comparison import schedule_instance
from hios_tvm.measuring.contest import Trial
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Program
from hios_tvm.schema.strict_json import encode
from hios_tvm.zoo.costs import cost_file


def with_rejected(manifest: Manifest, rejected: Manifest) -> Manifest:
    """Return `manifest` as if the schedule of `rejected` had been tried out, too."""
    kept, other = (
        Trial(str(each.schedule["scheduler"]), ("cpu@0",), 3.0, 4.0, 0.5)
        for each in (manifest, rejected)
    )
    other = replace(other, schedule=rejected.schedule, prediction=rejected.prediction)
    return replace(manifest, compile_info={"trials": [encode(kept), encode(other)]})


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
        prediction=predict(graph, instance.costs, instance.platform, schedule),
        schedule=json.loads(schedule.to_json()),
    )
