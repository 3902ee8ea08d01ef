"""Ahead-of-time compiler that schedules neural networks over several devices of one machine.

The names below are imported when they are used, so that a deployment machine, which needs only
`hios_tvm.runtime`, never imports the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hios_tvm.version import __version__

__all__ = [
    "Build",
    "Compilation",
    "CompileOptions",
    "CostTable",
    "Device",
    "DeviceSchedule",
    "HiosError",
    "InferenceSession",
    "Link",
    "Manifest",
    "Measurement",
    "Network",
    "OnnxReference",
    "Operator",
    "OperatorGraph",
    "OrtValue",
    "Platform",
    "Prediction",
    "RelaxReference",
    "Schedule",
    "Session",
    "SessionOptions",
    "Stage",
    "Tensor",
    "Timeline",
    "__version__",
    "build",
    "compile",
    "compile_model",
    "evaluate",
    "load",
    "load_model",
    "lower_network",
    "make_schedule",
    "network_costs",
    "plan",
    "predict",
    "write",
]

if TYPE_CHECKING:
    from hios_tvm.artifact.build import build
    from hios_tvm.artifact.predict import predict
    from hios_tvm.artifact.write import Build, write
    from hios_tvm.backends.network import Network, lower_network
    from hios_tvm.compiler import Compilation, CompileOptions, compile, compile_model, plan
    from hios_tvm.errors import HiosError
    from hios_tvm.frontends import load_model
    from hios_tvm.measuring.network_costs import network_costs
    from hios_tvm.onnxruntime import InferenceSession, OrtValue, SessionOptions
    from hios_tvm.runtime import Session, load
    from hios_tvm.schedulers import make_schedule
    from hios_tvm.schedulers.evaluate import Timeline, evaluate
    from hios_tvm.schema.costs import CostTable, Measurement
    from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
    from hios_tvm.schema.manifest import Manifest, Prediction
    from hios_tvm.schema.platform import Device, Link, Platform
    from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
    from hios_tvm.verification.onnx_reference import OnnxReference
    from hios_tvm.verification.relax_reference import RelaxReference
else:
    _MODULE_OF = {
        "Build": "hios_tvm.artifact.write",
        "Compilation": "hios_tvm.compiler",
        "CompileOptions": "hios_tvm.compiler",
        "CostTable": "hios_tvm.schema.costs",
        "Device": "hios_tvm.schema.platform",
        "DeviceSchedule": "hios_tvm.schema.schedule",
        "HiosError": "hios_tvm.errors",
        "InferenceSession": "hios_tvm.onnxruntime",
        "Link": "hios_tvm.schema.platform",
        "Manifest": "hios_tvm.schema.manifest",
        "Measurement": "hios_tvm.schema.costs",
        "Network": "hios_tvm.backends.network",
        "OnnxReference": "hios_tvm.verification.onnx_reference",
        "Operator": "hios_tvm.schema.graph",
        "OperatorGraph": "hios_tvm.schema.graph",
        "OrtValue": "hios_tvm.onnxruntime",
        "Platform": "hios_tvm.schema.platform",
        "Prediction": "hios_tvm.schema.manifest",
        "RelaxReference": "hios_tvm.verification.relax_reference",
        "Schedule": "hios_tvm.schema.schedule",
        "Session": "hios_tvm.runtime",
        "SessionOptions": "hios_tvm.onnxruntime",
        "Stage": "hios_tvm.schema.schedule",
        "Tensor": "hios_tvm.schema.graph",
        "Timeline": "hios_tvm.schedulers.evaluate",
        "build": "hios_tvm.artifact.build",
        "compile": "hios_tvm.compiler",
        "compile_model": "hios_tvm.compiler",
        "evaluate": "hios_tvm.schedulers.evaluate",
        "load": "hios_tvm.runtime",
        "load_model": "hios_tvm.frontends",
        "lower_network": "hios_tvm.backends.network",
        "make_schedule": "hios_tvm.schedulers",
        "network_costs": "hios_tvm.measuring.network_costs",
        "plan": "hios_tvm.compiler",
        "predict": "hios_tvm.artifact.predict",
        "write": "hios_tvm.artifact.write",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(_MODULE_OF[name])
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("hios_tvm."):
                raise AttributeError(
                    f"hios_tvm.{name} is part of the compiler: install hios-tvm in place of "
                    "hios-tvm-runtime"
                ) from error
            raise
        return getattr(module, name)

    def __dir__() -> list[str]:
        return sorted([*globals(), *__all__])
