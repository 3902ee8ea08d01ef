"""Targets of CUDA GPUs: an architecture, and what products are rounded to."""

import re

from tvm.target import Target

from hios_tvm.errors import DeviceError, UsageError
from hios_tvm.runtime.devices.cuda.driver import load_driver
from hios_tvm.schema.gpu_models import gpu_model
from hios_tvm.schema.precisions import Precision


def cuda_target(arch: str, host: Target, precision: Precision = "fp32") -> Target:
    """Return the target of GPUs of one architecture, whose host is a CPU.

    Parameters
    ----------
    arch : str
        Such as ``sm_80`` (A100) or ``sm_90`` (H100).
    precision : str
        ``fp32``, or what tensor cores round the factors of convolutions and products to.

    Raises
    ------
    UsageError
        If that is no architecture of CUDA, one before sm_70, or one whose tensor cores lack
        `precision`.
    """
    if re.fullmatch(r"sm_[1-9][0-9]{1,2}[af]?", arch) is None:
        raise UsageError(f"{arch!r} is no architecture of a GPU: write for example sm_80 or sm_90")
    gpu_model(arch).gflops(precision)
    limits = {"max_num_threads": 1024, "max_threads_per_block": 1024, "thread_warp_size": 32}
    limits["max_shared_memory_per_block"] = 48 * 1024
    keys = ["cuda", "gpu", *([] if precision == "fp32" else [precision])]
    return Target({"kind": "cuda", "arch": arch, "keys": keys, **limits}, host=host)


def arch_of(target: Target) -> str:
    """Return the architecture of a CUDA target, such as ``sm_90``."""
    return str(target.attrs["arch"])


def arch_here() -> str:
    """Return the architecture of the first GPU of this machine.

    Raises
    ------
    UsageError
        If there is none.
    """
    try:
        return load_driver().arch(0)
    except DeviceError as error:
        raise UsageError(
            f"name the architecture of the GPUs, for example --target sm_90 ({error})"
        ) from error
