"""Benchmark networks as ONNX models: real topologies, random weights from a seed."""

from hios_tvm.zoo.networks import NETWORKS, Network, build
from hios_tvm.zoo.size import ModelSize, model_size

__all__ = ["NETWORKS", "ModelSize", "Network", "build", "model_size"]
