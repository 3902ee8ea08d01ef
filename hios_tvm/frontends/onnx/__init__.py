"""The ONNX frontend: a file or a ModelProto in, a Relax module with static shapes out."""

from hios_tvm.frontends.onnx.load import from_onnx, load_onnx

__all__ = ["from_onnx", "load_onnx"]
