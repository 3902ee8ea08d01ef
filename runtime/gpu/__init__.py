"""GPUs: feeding their CUDA streams, CUDA graphs, their memory, and traces of what they ran."""

from hios_tvm.runtime.gpu.cuda_graph import GraphTask
from hios_tvm.runtime.gpu.feed_streams import GpuTask
from hios_tvm.runtime.gpu.issue_order import issue_order
from hios_tvm.runtime.gpu.trace import GpuTrace, Mark

__all__ = ["GpuTask", "GpuTrace", "GraphTask", "Mark", "issue_order"]
