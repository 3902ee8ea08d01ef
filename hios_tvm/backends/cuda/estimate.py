"""Costs of GPUs that are not here: a model of kernels, to schedule with until they are measured.

A kernel takes the longer of its arithmetic at the GPU's peak and its bytes at the memory's
bandwidth, and the time of a launch. A kernel with few results cannot use all multiprocessors:
that share of the GPU is its utilization, with which stream groups are modelled.
"""

import math

import tvm
from tvm import tirx
from tvm.ir import IRModule

from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.gpu_models import GpuModel
from hios_tvm.schema.graph import Operator, OperatorGraph
from hios_tvm.schema.precisions import Precision

_LAUNCH_MS = 0.003
_EFFICIENCY = 0.5  # of the peak, of plain kernels
_FULL_RESULTS = 2048  # results of a multiprocessor that keep it busy


def estimate_gpu(
    kernels: IRModule, graph: OperatorGraph, gpu: GpuModel, precision: Precision = "fp32"
) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return an estimate of each operator's time on `gpu`, and its share of the GPU.

    Parameters
    ----------
    kernels : IRModule
        The kernels before they get their loops (`Network.kernels`).
    """
    flops = {
        str(var.name_hint): float(tvm.s_tir.analysis.estimate_tir_flops(IRModule({"main": func})))
        for var, func in kernels.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }
    gflops = gpu.gflops(precision)
    times: dict[str, Measurement] = {}
    shares: dict[str, float] = {}
    for operator in graph.operators:
        results = sum(math.prod(graph.tensor[name].shape) for name in operator.outputs)
        share = min(1.0, max(1, results) / (gpu.multiprocessors * _FULL_RESULTS))
        arithmetic_ms = flops[operator.kernel] / (gflops * _EFFICIENCY * share) / 1e6
        memory_ms = _bytes(graph, operator) / (gpu.bandwidth_gb_s * math.sqrt(share)) / 1e6
        times[operator.name] = Measurement(
            _LAUNCH_MS + max(arithmetic_ms, memory_ms), source="estimated"
        )
        shares[operator.name] = share
    return times, shares


def _bytes(graph: OperatorGraph, operator: Operator) -> int:
    return sum(graph.tensor[name].nbytes for name in (*operator.inputs, *operator.outputs))
