"""Ahead-of-time compiler that schedules neural networks over several devices of one machine.

The names below are imported when they are used, so that a deployment machine, which needs only
`hios_tvm.runtime`, never imports the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hios_tvm.version import __version__

__all__ = [
    "CompileOptions",
    "CostTable",
    "Device",
    "Link",
    "OnnxReference",
    "OperatorGraph",
    "Platform",
    "RelaxReference",
    "Schedule",
    "__version__",
    "compile_model",
    "evaluate",
    "load",
    "load_model",
    "make_schedule",
]

if TYPE_CHECKING:
    from hios_tvm.compiler import CompileOptions, compile_model
    from hios_tvm.frontends import load_model
    from hios_tvm.runtime import load
    from hios_tvm.schedulers import make_schedule
    from hios_tvm.schedulers.evaluate import evaluate
    from hios_tvm.schema.costs import CostTable
    from hios_tvm.schema.graph import OperatorGraph
    from hios_tvm.schema.platform import Device, Link, Platform
    from hios_tvm.schema.schedule import Schedule
    from hios_tvm.verification.onnx_reference import OnnxReference
    from hios_tvm.verification.relax_reference import RelaxReference
else:
    _MODULE_OF = {
        "CompileOptions": "hios_tvm.compiler",
        "CostTable": "hios_tvm.schema.costs",
        "Device": "hios_tvm.schema.platform",
        "Link": "hios_tvm.schema.platform",
        "OnnxReference": "hios_tvm.verification.onnx_reference",
        "OperatorGraph": "hios_tvm.schema.graph",
        "Platform": "hios_tvm.schema.platform",
        "RelaxReference": "hios_tvm.verification.relax_reference",
        "Schedule": "hios_tvm.schema.schedule",
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
