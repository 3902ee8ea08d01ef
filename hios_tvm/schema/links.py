"""Links between devices that are sold: what a copy over them costs."""

from hios_tvm.schema.platform import Link

LINKS: dict[str, Link] = {
    # x16 has 31.5 GB/s in each direction; two RTX 4090 were seen to reach 52 GB/s in both together
    # (github.com/NVIDIA/nccl/issues/1614). Latency through the host's memory, as without peer
    # access, of p2pBandwidthLatencyTest (github.com/NVIDIA/cuda-samples/issues/230).
    "pcie4": Link(latency_ms=0.0155, bandwidth_gb_s=26.0),
    # A100: 12 links of 25 GB/s in each direction, 20 GB/s of them payload
    # (github.com/NVIDIA/nccl-tests/issues/149). Latency with peer access, of
    # p2pBandwidthLatencyTest (github.com/NVIDIA/cuda-samples/issues/230).
    "nvlink3": Link(latency_ms=0.0023, bandwidth_gb_s=240.0),
    # H100: 18 links of 25 GB/s in each direction; p2pBandwidthLatencyTest reached 376 GB/s
    # (github.com/NVIDIA/nccl/issues/1264). Latency as of NVLink 3.
    "nvlink4": Link(latency_ms=0.0023, bandwidth_gb_s=376.0),
}
"""Links by name: latency of a small copy, and bandwidth in one direction."""

# An event that one stream records and another one waits for takes about 1 us on the GPU
# (github.com/chelsea0x3b/cudarc/pull/335). Tensors stay where they are.
PARTS_OF_GPU = Link(latency_ms=0.001, bandwidth_gb_s=float("inf"))
"""What a hand-over between parts of one GPU costs until it is measured."""
