"""On which multiprocessors the parts of a GPU run: a kernel of which each block says where it is.

The driver documents that a kernel runs in the context of its stream; whether the streams of parts,
and graphs captured from them, keep to the multiprocessors of their part, this shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hios_tvm.errors import HiosError
from hios_tvm.runtime.devices.cuda.driver import CudaDriver
from hios_tvm.runtime.devices.cuda.gpu import Gpu, open_gpus
from hios_tvm.runtime.memory import Arena
from hios_tvm.schema.device_names import gpu_place

KERNEL = "record_multiprocessors"
MOST = 1024  # multiprocessors: no GPU has more
BLOCKS = 4 * MOST
THREADS = 512

CODE = f"""\
.version 6.0
.target sm_70
.address_size 64

// Counts the blocks of each multiprocessor. Each stays for some 10 us, so that others go elsewhere.
.visible .entry {KERNEL}(.param .u64 counts)
{{
  .reg .pred %p<3>;
  .reg .u32 %r<3>;
  .reg .u64 %rd<6>;

  mov.u32 %r1, %tid.x;
  setp.ne.u32 %p1, %r1, 0;
  @%p1 bra end;
  ld.param.u64 %rd1, [counts];
  cvta.to.global.u64 %rd1, %rd1;
  mov.u32 %r2, %smid;
  mul.wide.u32 %rd2, %r2, 4;
  add.u64 %rd2, %rd1, %rd2;
  red.global.add.u32 [%rd2], 1;
  mov.u64 %rd3, %clock64;
spin:
  mov.u64 %rd4, %clock64;
  sub.u64 %rd5, %rd4, %rd3;
  setp.lt.u64 %p2, %rd5, 20000;
  @%p2 bra spin;
end:
  bar.sync 0;
  ret;
}}
"""


def check_parts(driver: CudaDriver, devices: Sequence[str]) -> dict[str, Any]:
    """Return how many multiprocessors each part has used, by streams and by graphs.

    Raises
    ------
    HiosError
        If two parts have run on the same one, or a part on more than it has.
    """
    places = [gpu_place(name) for name in devices]
    gpus = open_gpus(driver, places, [CODE.encode() + b"\0"] * len(places))
    found: dict[str, Any] = {"sizes": [gpu.multiprocessors for gpu in gpus]}
    try:
        for how in ("streams", "graphs"):
            used = [multiprocessors_of(gpu, graph=how == "graphs") for gpu in gpus]
            for (a, first), (b, second) in combinations(zip(devices, used, strict=True), 2):
                if common := first & second:
                    raise HiosError(f"with {how}, {a} and {b} both run on {sorted(common)}")
            for name, own, gpu in zip(devices, used, gpus, strict=True):
                if not 0 < len(own) <= gpu.multiprocessors:
                    raise HiosError(
                        f"with {how}, {name} has run on {len(own)} multiprocessors and has "
                        f"{gpu.multiprocessors}"
                    )
            found[how] = list(map(len, used))
    finally:
        for gpu in gpus:
            gpu.close()
    return found


def multiprocessors_of(gpu: Gpu, *, graph: bool) -> set[int]:
    """Return the multiprocessors that a stream of `gpu`, or a graph captured from one, has used."""
    driver, counts = gpu.driver, Arena(4 * MOST)
    gpu.pin(counts)
    address = gpu.allocate(4 * MOST)
    gpu.upload(address, counts.address, 4 * MOST)
    stream, kernel = gpu.stream(), gpu.kernel(KERNEL, 0)
    argument = ctypes.c_uint64(address)
    params = (ctypes.c_void_p * 1)(ctypes.addressof(argument))

    def issue() -> None:
        sizes = (BLOCKS, 1, 1, THREADS, 1, 1, 0)
        driver.call("cuLaunchKernel", kernel, *sizes, stream, ctypes.addressof(params), None)

    if graph:
        driver.call("cuGraphLaunch", gpu.capture(stream, issue), stream)
    else:
        issue()
    driver.call("cuMemcpyAsync", counts.address, address, 4 * MOST, stream)
    driver.call("cuStreamSynchronize", stream)
    return set(np.flatnonzero(counts.bytes[: 4 * MOST].view(np.uint32)).tolist())
