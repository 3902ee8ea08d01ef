"""Ahead-of-time compiler that schedules neural networks over several devices of one machine.

The names below are imported when they are used, so that a deployment machine, which needs only
`hios_tvm.runtime`, never imports the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hios_tvm.version import __version__ as __version__

_NAMES = {
    "hios_tvm.artifact.build": "build",
    "hios_tvm.artifact.predict": "predict",
    "hios_tvm.artifact.write": "Build write",
    "hios_tvm.backends.network": "Network lower_network",
    "hios_tvm.compiler": "Compilation CompileOptions compile_model plan",
    "hios_tvm.errors": "HiosError",
    "hios_tvm.frontends": "load_model",
    "hios_tvm.measuring.network_costs": "network_costs",
    "hios_tvm.runtime": "Session load",
    "hios_tvm.schedulers": "make_schedule",
    "hios_tvm.schedulers.evaluate": "Timeline evaluate",
    "hios_tvm.schema.costs": "CostTable Measurement",
    "hios_tvm.schema.graph": "Operator OperatorGraph Tensor",
    "hios_tvm.schema.manifest": "Manifest Prediction",
    "hios_tvm.schema.platform": "Device Link Platform",
    "hios_tvm.schema.schedule": "DeviceSchedule Schedule Stage",
    "hios_tvm.verification.onnx_reference": "OnnxReference",
    "hios_tvm.verification.relax_reference": "RelaxReference",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted([*_MODULE_OF, "__version__"])

if TYPE_CHECKING:
    from hios_tvm.artifact.build import build as build
    from hios_tvm.artifact.predict import predict as predict
    from hios_tvm.artifact.write import Build as Build
    from hios_tvm.artifact.write import write as write
    from hios_tvm.backends.network import Network as Network
    from hios_tvm.backends.network import lower_network as lower_network
    from hios_tvm.compiler import Compilation as Compilation
    from hios_tvm.compiler import CompileOptions as CompileOptions
    from hios_tvm.compiler import compile_model as compile_model
    from hios_tvm.compiler import plan as plan
    from hios_tvm.errors import HiosError as HiosError
    from hios_tvm.frontends import load_model as load_model
    from hios_tvm.measuring.network_costs import network_costs as network_costs
    from hios_tvm.runtime import Session as Session
    from hios_tvm.runtime import load as load
    from hios_tvm.schedulers import make_schedule as make_schedule
    from hios_tvm.schedulers.evaluate import Timeline as Timeline
    from hios_tvm.schedulers.evaluate import evaluate as evaluate
    from hios_tvm.schema.costs import CostTable as CostTable
    from hios_tvm.schema.costs import Measurement as Measurement
    from hios_tvm.schema.graph import Operator as Operator
    from hios_tvm.schema.graph import OperatorGraph as OperatorGraph
    from hios_tvm.schema.graph import Tensor as Tensor
    from hios_tvm.schema.manifest import Manifest as Manifest
    from hios_tvm.schema.manifest import Prediction as Prediction
    from hios_tvm.schema.platform import Device as Device
    from hios_tvm.schema.platform import Link as Link
    from hios_tvm.schema.platform import Platform as Platform
    from hios_tvm.schema.schedule import DeviceSchedule as DeviceSchedule
    from hios_tvm.schema.schedule import Schedule as Schedule
    from hios_tvm.schema.schedule import Stage as Stage
    from hios_tvm.verification.onnx_reference import OnnxReference as OnnxReference
    from hios_tvm.verification.relax_reference import RelaxReference as RelaxReference
else:

    def __getattr__(name: str) -> object:
        if name in _MODULE_OF:
            return getattr(importlib.import_module(_MODULE_OF[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted([*globals(), *__all__])
