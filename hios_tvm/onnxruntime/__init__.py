"""The part of ONNX Runtime's Python API that runs models, so that replacing an import is enough.

    from hios_tvm import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"input": images})

A model is compiled when it is first used, and kept in the user's cache folder.
"""

from hios_tvm.onnxruntime.options import (
    ExecutionMode,
    GraphOptimizationLevel,
    RunOptions,
    SessionOptions,
    get_available_providers,
    get_device,
)
from hios_tvm.onnxruntime.session import InferenceSession
from hios_tvm.onnxruntime.signature import ModelMetadata, NodeArg
from hios_tvm.onnxruntime.values import IOBinding, OrtValue
from hios_tvm.version import __version__

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "OrtValue",
    "RunOptions",
    "SessionOptions",
    "__version__",
    "get_available_providers",
    "get_device",
]
