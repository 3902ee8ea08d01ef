"""Ahead-of-time compiler that schedules neural networks over several devices of one machine.

The names below are imported when they are used, so that a deployment machine, which needs only
`hios_tvm.runtime`, never imports the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hios_tvm.version import __version__

__all__ = [
    "Compilation",
    "CompileOptions",
    "CostTable",
    "Device",
    "DeviceSchedule",
    "HiosError",
    "Link",
    "Measurement",
    "OnnxReference",
    "Operator",
    "OperatorGraph",
    "Platform",
    "RelaxReference",
    "Schedule",
    "Session",
    "Stage",
    "Tensor",
    "Timeline",
    "__version__",
    "compile_model",
    "evaluate",
    "load",
    "load_model",
    "make_schedule",
]

if TYPE_CHECKING:
    from hios_tvm.compiler import Compilation, CompileOptions, compile_model
    from hios_tvm.errors import HiosError
    from hios_tvm.frontends import load_model
    from hios_tvm.runtime import Session, load
    from hios_tvm.schedulers import make_schedule
    from hios_tvm.schedulers.evaluate import Timeline, evaluate
    from hios_tvm.schema.costs import CostTable, Measurement
    from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
    from hios_tvm.schema.platform import Device, Link, Platform
    from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage
    from hios_tvm.verification.onnx_reference import OnnxReference
    from hios_tvm.verification.relax_reference import RelaxReference
else:
    _MODULE_OF = {
        "Compilation": "hios_tvm.compiler",
        "CompileOptions": "hios_tvm.compiler",
        "CostTable": "hios_tvm.schema.costs",
        "Device": "hios_tvm.schema.platform",
        "DeviceSchedule": "hios_tvm.schema.schedule",
        "HiosError": "hios_tvm.errors",
        "Link": "hios_tvm.schema.platform",
        "Measurement": "hios_tvm.schema.costs",
        "OnnxReference": "hios_tvm.verification.onnx_reference",
        "Operator": "hios_tvm.schema.graph",
        "OperatorGraph": "hios_tvm.schema.graph",
        "Platform": "hios_tvm.schema.platform",
        "RelaxReference": "hios_tvm.verification.relax_reference",
        "Schedule": "hios_tvm.schema.schedule",
        "Session": "hios_tvm.runtime",
        "Stage": "hios_tvm.schema.schedule",
        "Tensor": "hios_tvm.schema.graph",
        "Timeline": "hios_tvm.schedulers.evaluate",
        "compile_model": "hios_tvm.compiler",
        "evaluate": "hios_tvm.schedulers.evaluate",
        "load": "hios_tvm.runtime",
        "load_model": "hios_tvm.frontends",
        "make_schedule": "hios_tvm.schedulers",
    }

    def __getattr__(name: str) -> object:
        if name in _MODULE_OF:
            return getattr(importlib.import_module(_MODULE_OF[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted([*globals(), *__all__])
